"""A site's own keys; the private ones never leave its folder.

::

    tls.key                  of the certificate that the hub admits the site by (P-256)
    certificate.pem          that certificate and its issuer; there once the hub has issued it
    root.crt                 the hub's root certificate
    tls.key.next             during a renewal: the key that the next certificate is for
    node.key, node.key.pub   Flower's node key (P-384, OpenSSH)
    audit.key                signs the site's audit log (Ed25519)
"""

import ssl
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Self, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from common.errors import InputError, RefusedError
from common.files import sync_folder
from deploy.provision.certificates import common_name
from deploy.provision.pem_files import (
    as_pem,
    read_certificate,
    read_key,
    write_key,
)
from deploy.provision.private_files import new_private_folder, read_file, write_private
from deploy.provision.public_keys import as_der, node_header
from deploy.provision.tokens import short_code

LONGEST_CHAIN = 3


@final
class SiteKeys:
    """One site's keys folder.

    Attributes:
        folder: Of mode 0700; every file that this class writes is of mode 0600.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make all keys of a new site.

        Args:
            folder: Appears whole or not at all; must not exist, or be empty.

        Raises:
            InputError: If ``folder`` holds something; keys are never overwritten.
            RunError: If it cannot be written.
        """
        with new_private_folder(folder) as part:
            made = cls(part)
            write_key(made.tls_key, ec.generate_private_key(ec.SECP256R1()))
            write_key(made.audit_key, ed25519.Ed25519PrivateKey.generate())
            made._write_node_key(ec.generate_private_key(ec.SECP384R1()))
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Find keys that were made before; finish a renewal that a crash interrupted.

        Raises:
            InputError: If some are missing.
        """
        found = cls(folder)
        needed = (found.tls_key, found.node_key, found.audit_key)
        missing = [path.name for path in needed if not path.exists()]
        if missing:
            raise InputError(
                f"{folder}: holds no keys of a site, {', '.join(missing)} missing; enrol the "
                "site, or restore the folder from its backup"
            )
        if found.is_enrolled:
            found._switch()
        return found

    @property
    def tls_key(self) -> Path:
        """Key of the certificate."""
        return self.folder / "tls.key"

    @property
    def next_tls_key(self) -> Path:
        """Key of the certificate that was asked for; there only during a renewal."""
        return self.folder / "tls.key.next"

    @property
    def certificate(self) -> Path:
        """The certificate and its issuer."""
        return self.folder / "certificate.pem"

    @property
    def root(self) -> Path:
        """The hub's root certificate."""
        return self.folder / "root.crt"

    @property
    def node_key(self) -> Path:
        """Flower's ``--auth-supernode-private-key``."""
        return self.folder / "node.key"

    @property
    def node_public(self) -> Path:
        """The public half of :attr:`node_key`."""
        return self.folder / "node.key.pub"

    @property
    def audit_key(self) -> Path:
        """Signs the audit log."""
        return self.folder / "audit.key"

    @property
    def is_enrolled(self) -> bool:
        """Whether the hub's certificate is there."""
        return self.certificate.exists() and self.root.exists()

    def csr(self, site: str) -> str:
        """Return a certificate request (PKCS #10, PEM) for the present key."""
        return _request(read_key(self.tls_key), site)

    def new_tls_key(self, site: str) -> str:
        """Begin a renewal: make a key beside the present one, which stays in use.

        Called again before the certificate came, it asks with the same key.

        Returns:
            The certificate request for the new key (PKCS #10, PEM).
        """
        if not self.next_tls_key.exists():
            write_key(self.next_tls_key, ec.generate_private_key(ec.SECP256R1()))
        return _request(read_key(self.next_tls_key), site)

    def install(
        self, chain_pem: str, *, site: str, now: datetime, root_pem: bytes | None = None
    ) -> None:
        """Put a certificate in use, and the key that it was asked for with.

        Args:
            chain_pem: The certificate and its issuer.
            site: Whom it must name.
            now: The clock.
            root_pem: The hub's root as :func:`deploy.provision.fetch_root.fetch_root` found
                it; None at a renewal, which never changes the root.

        Raises:
            InputError: If there is no root yet and none is given.
            RefusedError: If the certificate is not this site's, not of this hub or not valid
                now, or ``root_pem`` is not the root that the site trusts already.
            RunError: If it cannot be written; the old one stays in use.
        """
        root = self._trusted(root_pem)
        chain = _chain(chain_pem.encode(), root)
        self._check_ours(chain[0], site, now)
        if not self.root.exists():
            write_private(self.root, as_pem(root))
        # From here on the certificate decides which key counts; open() goes on after a crash.
        write_private(self.certificate, as_pem(*chain))
        self._switch()

    def expires(self) -> datetime:
        """Return when the certificate expires.

        Raises:
            InputError: If there is none.
        """
        return read_certificate(self.certificate).not_valid_after_utc

    def renew_due(self, now: datetime) -> bool:
        """Say whether less than a third of the certificate's lifetime is left."""
        certificate = read_certificate(self.certificate)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return (end - now) * 3 < end - begin

    def node_public_ssh(self) -> str:
        """Return the node's public key as one line in OpenSSH's form."""
        return _openssh(self._node_public_key())

    def node_header(self) -> str:
        """Return what Flower sends as the header ``flwr-public-key``."""
        return node_header(self._node_public_key())

    def audit_public(self) -> str:
        """Return the public key of the audit log, hexadecimal."""
        key = serialization.load_pem_private_key(read_file(self.audit_key), None)
        return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def short_code(self, fingerprint: str) -> str:
        """Return what the site's people read to the hub's, see :func:`short_code`."""
        tls = read_key(self.tls_key).public_key()
        return short_code(as_der(tls), as_der(self._node_public_key()), fingerprint)

    def client_context(self) -> ssl.SSLContext:
        """Return TLS settings with which the site calls its hub, and no other server.

        Raises:
            InputError: If there is no certificate yet.
        """
        if not self.is_enrolled:
            raise InputError(f"{self.folder}: the hub has issued no certificate yet")
        return client_context(self.root, self.certificate, self.tls_key)

    def _write_node_key(self, key: ec.EllipticCurvePrivateKey) -> None:
        private = key.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        write_private(self.node_key, private)
        write_private(self.node_public, f"{_openssh(key.public_key())}\n".encode("ascii"))

    def _node_public_key(self) -> ec.EllipticCurvePublicKey:
        try:
            key = serialization.load_ssh_private_key(read_file(self.node_key), None)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InputError(f"{self.node_key}: is no elliptic-curve key; restore the backup")
        return key.public_key()

    def _trusted(self, root_pem: bytes | None) -> x509.Certificate:
        if root_pem is None:
            return read_certificate(self.root)
        given = _certificates(root_pem)[0]
        if self.root.exists() and read_certificate(self.root) != given:
            raise RefusedError(
                f"{self.root}: the site trusts another hub already; enrol with new keys in "
                "another folder to change the hub"
            )
        return given

    def _check_ours(self, leaf: x509.Certificate, site: str, now: datetime) -> None:
        if common_name(leaf) != site:
            raise RefusedError(f"certificate: is for {common_name(leaf)!r}, expected {site!r}")
        keys = [path for path in (self.tls_key, self.next_tls_key) if path.exists()]
        if not any(_fits(leaf, path) for path in keys):
            raise RefusedError("certificate: is for another key than this site's; ask again")
        first, last = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        if not first <= now < last:
            raise RefusedError(
                f"certificate: is valid from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} "
                f"UTC, this machine's clock says {now:%Y-%m-%d %H:%M}; set the clock"
            )

    def _switch(self) -> None:
        """Put the next key in use if the certificate is for it."""
        leaf = read_certificate(self.certificate)
        if self.next_tls_key.exists() and _fits(leaf, self.next_tls_key):
            with suppress(FileNotFoundError):  # another process was as quick
                self.next_tls_key.replace(self.tls_key)
            sync_folder(self.folder)


def client_context(root: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return a client's TLS settings: its own certificate, and one root that it trusts."""
    context = ssl.create_default_context(cafile=root)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    # without ssh-keygen's comment, which would tell the hub the machine's name
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")


def _request(key: ec.EllipticCurvePrivateKey, site: str) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])  # the hub sets its own
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode("ascii")


def _chain(pem: bytes, root: x509.Certificate) -> list[x509.Certificate]:
    """Return a certificate and its issuers, the root left out; each issued by the next."""
    chain = [c for c in _certificates(pem) if c != root]
    if not 1 <= len(chain) <= LONGEST_CHAIN:
        raise RefusedError(f"certificate: comes in a chain of {len(chain)}; ask again")
    try:
        for issued, issuer in zip(chain, [*chain[1:], root], strict=True):
            issued.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RefusedError(
            "certificate: was not issued by the hub that this site trusts"
        ) from error
    return chain


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise RefusedError("certificate: cannot be read, expected PEM; ask again") from error


def _fits(leaf: x509.Certificate, key: Path) -> bool:
    return leaf.public_key() == read_key(key).public_key()
