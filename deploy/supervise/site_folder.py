"""A site's folder: where everything is, and what `fedseg site join` wrote down.

::

    site.json       name, hub, fingerprint; no secret
    keys/           the site's own keys; 0700, they never leave it
    consent/        what its people decided, the ledger of it
    offers/         studies that the hub offers, as it was last reached
    state/          of the worker: runs, checkpoints, own weights
    flower/         homes of Flower's processes, the one bundle that may run
    run/            sockets and the status of the processes
    log/ audit/     the site's log; its audit log
"""

import json
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, final

from client.hub import Hub, HubAddress
from common.errors import InputError
from common.files import write_json
from common.study.typed import as_typed
from deploy.provision.private_files import read_file
from deploy.provision.site_keys import SiteKeys

PRIVATE = 0o700


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """Contents of ``site.json``.

    Attributes:
        site: The site's name.
        address: ``host:port`` of the hub.
        fingerprint: SHA-256 of the hub's root certificate, hexadecimal.
        profile: The site's profile.
        runtime_port: On loopback, between Flower's processes of the site.
        metrics_port: Of the figures for Prometheus, on loopback.
    """

    site: str
    address: str
    fingerprint: str
    profile: str
    runtime_port: int
    metrics_port: int


def free_port() -> int:
    """Return a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@final
class SiteFolder:
    """Where everything of a site is.

    Attributes:
        path: The folder.
        settings: Of ``site.json``.
    """

    def __init__(self, path: Path, settings: SiteSettings) -> None:
        self.path, self.settings = path, settings

    @classmethod
    def create(cls, path: Path, settings: SiteSettings) -> Self:
        """Make the folder; its keys are made already.

        Raises:
            RunError: If it cannot be written.
        """
        site = cls(path.resolve(), settings)
        for name in ("consent", "offers", "state", "flower", "run", "log", "audit"):
            (site.path / name).mkdir(mode=PRIVATE, exist_ok=True)
        write_json(site.path / "site.json", asdict(settings))
        return site

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a site.

        Raises:
            InputError: If the folder holds none.
        """
        file = path / "site.json"
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: holds no site; make one with: fedseg site join INVITATION"
            ) from error
        settings, problems = as_typed(SiteSettings, plain)
        if settings is None:
            where, what = problems[0]
            raise InputError(f"{file}: {'.'.join(map(str, where))}: {what}")
        return cls(path.resolve(), settings)

    @property
    def keys(self) -> SiteKeys:
        """The site's keys."""
        return SiteKeys.open(self.path / "keys")

    @property
    def profile(self) -> Path:
        """The site's profile."""
        return Path(self.settings.profile)

    @property
    def worker_socket(self) -> Path:
        """Where the messenger finds the worker."""
        return self.path / "run" / "worker.sock"

    @property
    def allowed_bundle(self) -> Path:
        """File with the digest of the one bundle that may run."""
        return self.path / "flower" / "bundle.sha256"

    @property
    def executor_secret(self) -> Path:
        """What SuperNode and its executor share."""
        return self.path / "flower" / "executor.secret"

    def flower_home(self, name: str) -> Path:
        """Return the home of one of Flower's processes."""
        home = self.path / "flower" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    def hub(self) -> Hub:
        """Open a channel to the hub's control service.

        Raises:
            InputError: If the site has no certificate yet.
        """
        keys = self.keys
        return Hub(
            HubAddress(
                address=self.settings.address,
                root=read_file(keys.root),
                certificate=read_file(keys.certificate),
                key=read_file(keys.tls_key),
            )
        )
