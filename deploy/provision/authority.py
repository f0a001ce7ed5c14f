"""The hub's certificate authorities: they admit sites, and shut them out again.

Two intermediates stand below one root, so that the root's key can be kept offline, and so that
what admits a site can never pose as the hub. See :mod:`deploy.provision.certificates` for what
is issued, :mod:`deploy.provision.pki_files` for where it is kept.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from common.errors import InputError, RunError
from common.files import writing
from common.messages import SITE_NAME
from deploy.provision.certificates import (
    CLIENT,
    SERVER,
    YEAR,
    Authority,
    alternative_names,
    build_intermediate,
    build_revocations,
    build_root,
    build_server,
    build_site,
    serial_hex,
)
from deploy.provision.pem_files import (
    as_pem,
    read_certificate,
    read_key,
    write_certificates,
    write_key,
)
from deploy.provision.pki_files import PkiFiles
from deploy.provision.private_files import new_private_folder, read_file
from deploy.provision.public_keys import request_key
from deploy.provision.revocations import (
    Revocations,
    read_revocations,
    revoking,
    write_revocations,
)

SITES = "sites"
HUB = "hub"
PURPOSES = {SITES: CLIENT, HUB: SERVER}
SITE_DAYS = 90
LONGEST_SITE_DAYS = 397
SITES_LIST_VALID = timedelta(days=30)
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\n?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class IssuedCertificate:
    """What a site is admitted with.

    Attributes:
        pem: The certificate and its issuer; the root is not among them.
        serial: Hexadecimal, as nginx writes it.
        not_before: From when it is valid.
        not_after: Until when.
    """

    pem: str
    serial: str
    not_before: datetime
    not_after: datetime


@final
class Authorities:
    """Issues and revokes, from the hub's ``pki`` folder.

    Every ``now`` is the clock, with a time zone.

    Attributes:
        files: Where everything is, for those who serve with it.
    """

    def __init__(self, folder: Path) -> None:
        self.files = PkiFiles(folder)

    @classmethod
    def create(cls, folder: Path, hub_names: Sequence[str], now: datetime) -> Self:
        """Make all authorities, and the certificates of the hub's two servers.

        Args:
            folder: Appears whole or not at all; must not exist, or be empty.
            hub_names: Host names and IP addresses under which sites reach the hub.
            now: The clock.

        Raises:
            InputError: If ``folder`` holds something, or a name is none.
            RunError: If it cannot be written.
        """
        names = alternative_names(hub_names)
        with new_private_folder(folder) as part:
            made = cls(part)
            made.files.root_key.parent.mkdir(mode=0o700)
            key = ec.generate_private_key(ec.SECP384R1())
            write_key(made.files.root_key, key)
            write_certificates(made.files.root, build_root(key, now=now))
            for authority in PURPOSES:
                write_key(made.files.key(authority), ec.generate_private_key(ec.SECP384R1()))
            made.renew_intermediates(now)
            for path in (made.files.server_key, made.files.superlink_key):
                write_key(path, ec.generate_private_key(ec.SECP256R1()))
            made._certify_servers(names, now)
            write_revocations(made.files.register, Revocations(number=0, revoked={}))
            made.write_crl(now)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Find authorities that were made before.

        Raises:
            InputError: If some of their files are missing.
        """
        found = cls(folder)
        files = found.files
        needed = [files.root, files.sites_authorities, files.hub_chain, files.register]
        needed += [path for a in PURPOSES for path in (files.key(a), files.certificate(a))]
        missing = [path.name for path in needed if not path.exists()]
        if missing:
            raise InputError(
                f"{folder}: holds no certificate authorities, {', '.join(missing)} missing; "
                "make a hub, or restore the folder from its backup"
            )
        return found

    def issue_site(
        self, request_pem: str, site: str, *, now: datetime, days: int = SITE_DAYS
    ) -> IssuedCertificate:
        """Certify a site's key under the name that the hub knows the site by.

        Args:
            request_pem: PKCS #10; only its public key is taken, and only if it is signed with
                it.
            site: The name.
            now: The clock; the certificate is valid from 10 minutes before.
            days: For how long.

        Raises:
            InputError: If the name or the number of days cannot be.
            RefusedError: If the request is not signed by its key or the key is no P-256 or
                P-384.
            RunError: If the issuing authority has expired.
        """
        if not SITE_NAME.fullmatch(site):
            raise InputError(
                f"site {site!r}: is no name of a site; it must match {SITE_NAME.pattern}"
            )
        if not 1 <= days <= LONGEST_SITE_DAYS:
            raise InputError(f"days: must be 1 to {LONGEST_SITE_DAYS} (got {days})")
        issuer = self._authority(SITES)
        issued = build_site(request_key(request_pem), site, issuer=issuer, now=now, days=days)
        return IssuedCertificate(
            pem=as_pem(issued, issuer.certificate).decode("ascii"),
            serial=serial_hex(issued.serial_number),
            not_before=issued.not_valid_before_utc,
            not_after=issued.not_valid_after_utc,
        )

    def revoke(self, serial: str, now: datetime) -> None:
        """Shut a site's certificate out; nginx must read the lists anew to know it.

        Args:
            serial: Hexadecimal. Nobody checks that such a certificate exists.
            now: The clock.

        Raises:
            InputError: If it is no serial number, or as of :meth:`write_crl`.
            RunError: If the lists cannot be written; what was registered stays registered.
        """
        with revoking(self.files.folder):
            register = read_revocations(self.files.register)
            self._publish(register.with_revoked(serial, now), now)

    def write_crl(self, now: datetime) -> None:
        """Write the lists anew: that of sites for 30 days, the root's for a year.

        While the root's key is offline its old list is kept. nginx refuses everyone once
        either has expired, so call this daily.

        Raises:
            InputError: If the root's list has expired and its key is not here.
            RunError: If something cannot be read or written.
        """
        with revoking(self.files.folder):
            self._publish(read_revocations(self.files.register), now)

    def crl_expires(self) -> datetime:
        """Return when the first of the lists that nginx reads expires."""
        texts = _LIST.findall(read_file(self.files.lists))
        ends = [x509.load_pem_x509_crl(text).next_update_utc for text in texts]
        if not all(ends) or len(ends) != len(PURPOSES):
            raise RunError(f"{self.files.lists}: is damaged; write it again")
        return min(end for end in ends if end)

    def renew_server(self, now: datetime, *, hub_names: Sequence[str] | None = None) -> None:
        """Certify the hub's two servers for another year, with the keys that they have.

        A new key would have to change at the same moment as the certificate, which two files
        cannot; a server that starts in between would not come up.

        Args:
            now: The clock.
            hub_names: Names instead of those so far.

        Raises:
            InputError: If a name is none.
            RunError: If the issuing authority has expired, or something cannot be written.
        """
        if hub_names is None:
            old = read_certificate(self.files.hub_chain)
            found = old.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            names = list(found.value)
        else:
            names = alternative_names(hub_names)
        self._certify_servers(names, now)

    def server_expires(self) -> datetime:
        """Return when the first of the hub's servers' certificates expires."""
        chains = (self.files.hub_chain, self.files.superlink_chain)
        return min(read_certificate(path).not_valid_after_utc for path in chains)

    def renew_intermediates(self, now: datetime) -> None:
        """Certify the two issuing authorities for another 5 years, with the keys they have.

        What they issued goes on being valid: it names its issuer by name and key. The hub's
        servers should be renewed after it.

        Raises:
            InputError: If the root's key is offline.
            RunError: If the root has expired, or something cannot be written.
        """
        root = self._root()
        for name, purpose in PURPOSES.items():
            key = read_key(self.files.key(name)).public_key()
            made = build_intermediate(key, name, purpose, root=root, now=now)
            write_certificates(self.files.certificate(name), made)
        sites = read_certificate(self.files.certificate(SITES))
        write_certificates(self.files.sites_authorities, sites, root.certificate)

    def intermediates_expire(self) -> datetime:
        """Return when the first of the two issuing authorities expires."""
        return min(
            read_certificate(self.files.certificate(a)).not_valid_after_utc for a in PURPOSES
        )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the root certificate, hexadecimal."""
        return read_certificate(self.files.root).fingerprint(hashes.SHA256()).hex()

    def _certify_servers(self, names: Sequence[x509.GeneralName], now: datetime) -> None:
        issuer, root = self._authority(HUB), read_certificate(self.files.root)
        for path, key, valid_for in (
            (self.files.hub_chain, self.files.server_key, names),
            (self.files.superlink_chain, self.files.superlink_key, alternative_names([])),
        ):
            made = build_server(read_key(key).public_key(), valid_for, issuer=issuer, now=now)
            write_certificates(path, made, issuer.certificate, root)

    def _publish(self, register: Revocations, now: datetime) -> None:
        """Register first, then write: a number is never used twice, a revocation never lost."""
        register = register.next()
        write_revocations(self.files.register, register)
        sites = build_revocations(
            register.moments(),
            issuer=self._authority(SITES),
            number=register.number,
            now=now,
            valid=SITES_LIST_VALID,
        )
        lists = sites.public_bytes(Encoding.PEM) + self._root_list(register.number, now)
        with writing(self.files.lists) as file:
            file.write(lists)

    def _root_list(self, number: int, now: datetime) -> bytes:
        if not self.files.root_key.exists():
            pem = read_file(self.files.root_list)
            ends = x509.load_pem_x509_crl(pem).next_update_utc
            if ends is not None and now < ends:
                return pem
        made = build_revocations({}, issuer=self._root(), number=number, now=now, valid=YEAR)
        with writing(self.files.root_list) as file:
            file.write(made.public_bytes(Encoding.PEM))
        return made.public_bytes(Encoding.PEM)

    def _root(self) -> Authority:
        path = self.files.root_key
        if not path.exists():
            raise InputError(
                f"{path}: the root's key is offline; fetch the folder {path.parent.name!r} "
                f"from where it is kept, put it back into {self.files.folder}, and try again"
            )
        return Authority(certificate=read_certificate(self.files.root), key=read_key(path))

    def _authority(self, name: str) -> Authority:
        return Authority(
            certificate=read_certificate(self.files.certificate(name)),
            key=read_key(self.files.key(name)),
        )
