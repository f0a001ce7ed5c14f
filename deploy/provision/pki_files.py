"""Where the files of the hub's authorities are.

::

    pki/root/root.key        may be moved offline, with its folder
    pki/root.crt, root.crl   the root and its revocation list
    pki/sites.crt, .key      issues to sites
    pki/hub.crt, .key        issues to the hub's own servers
    pki/hub-chain.pem, server.key          what the public port presents
    pki/superlink-chain.pem, superlink.key what the SuperLink presents on loopback
    pki/sites-ca.pem         what nginx trusts for sites' certificates
    pki/crl.pem              both revocation lists; nginx wants one of every authority
    pki/revoked.json         what the lists are written from
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final


@final
@dataclass(frozen=True)
class PkiFiles:
    """The names within one ``pki`` folder.

    Attributes:
        folder: The ``pki`` folder.
    """

    folder: Path

    @property
    def root_key(self) -> Path:
        """The root's key; not there while it is offline."""
        return self.folder / "root" / "root.key"

    @property
    def root(self) -> Path:
        """The root certificate."""
        return self.folder / "root.crt"

    @property
    def root_list(self) -> Path:
        """The root's revocation list."""
        return self.folder / "root.crl"

    @property
    def hub_chain(self) -> Path:
        """Certificate of the public server, its issuer and the root."""
        return self.folder / "hub-chain.pem"

    @property
    def server_key(self) -> Path:
        """Key of the public server."""
        return self.folder / "server.key"

    @property
    def superlink_chain(self) -> Path:
        """Certificate of the SuperLink, its issuer and the root."""
        return self.folder / "superlink-chain.pem"

    @property
    def superlink_key(self) -> Path:
        """Key of the SuperLink's server."""
        return self.folder / "superlink.key"

    @property
    def sites_authorities(self) -> Path:
        """The authorities of sites' certificates."""
        return self.folder / "sites-ca.pem"

    @property
    def lists(self) -> Path:
        """The revocation lists that nginx reads."""
        return self.folder / "crl.pem"

    @property
    def register(self) -> Path:
        """What was revoked."""
        return self.folder / "revoked.json"

    def certificate(self, authority: str) -> Path:
        """Return the certificate file of an intermediate authority."""
        return self.folder / f"{authority}.crt"

    def key(self, authority: str) -> Path:
        """Return the key file of an intermediate authority."""
        return self.folder / f"{authority}.key"
