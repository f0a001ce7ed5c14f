"""A hub's folder: where everything is, and the settings that `fedseg hub init` wrote.

::

    hub.json        names, ports, address
    registry.db     sites, studies, decisions, runs; no secret
    pki/            certificate authorities and the hub's own certificates
    secrets/        what Flower's processes share
    nginx/          the proxy's configuration, bindings and logs
    flower/         the SuperLink's state, homes of Flower's processes, the app
    run/            sockets and the status of the processes
    runs/           one folder for each run
    log/ audit/     the hub's log; its audit log
"""

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self, final

from common.errors import InputError
from common.files import write_json
from common.study.typed import as_typed
from deploy.supervise.flower import Flower
from server.registry import Registry

ADDRESS = re.compile(r"([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})")
PRIVATE = 0o700


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """Contents of ``hub.json``.

    Attributes:
        address: ``host:port`` at which sites reach the hub.
        listen: Address that the public port listens on.
        superlink_port: Flower's, on loopback.
        certificate_days: Lifetime of a site's certificate.
        runs_at_once: How many runs may be under way together.
        metrics_port: Of the figures for Prometheus, on loopback.
        user: That nginx changes to when it is started by root; empty to stay.
    """

    address: str
    listen: str = "0.0.0.0"  # noqa: S104 - the one public port
    superlink_port: int = 9092
    certificate_days: int = 90
    runs_at_once: int = 2
    metrics_port: int = 9464
    user: str = ""

    @property
    def host(self) -> str:
        """Name or address of the hub."""
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The public port."""
        return int(self.address.rpartition(":")[2])


@final
class HubFolder:
    """Where everything of a hub is.

    Attributes:
        path: The folder.
        settings: Of ``hub.json``.
    """

    def __init__(self, path: Path, settings: HubSettings) -> None:
        self.path, self.settings = path, settings

    @classmethod
    def create(cls, path: Path, settings: HubSettings) -> Self:
        """Make the folder and what needs no certificate.

        Raises:
            InputError: If it holds a hub already, or the address is none.
        """
        if not ADDRESS.fullmatch(settings.address):
            raise InputError(
                f"address {settings.address!r}: expected host:port, e.g. hub.example.org:443"
            )
        if (path / "hub.json").exists():
            raise InputError(f"{path}: holds a hub already; choose another folder")
        hub = cls(path.resolve(), settings)
        for folder in ("secrets", "nginx/logs", "flower", "run", "runs", "log", "audit"):
            target = hub.path / folder
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(PRIVATE)
        handle = os.open(hub.executor_secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
        hub.registry.create()
        write_json(hub.path / "hub.json", asdict(settings))
        return hub

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a hub.

        Raises:
            InputError: If the folder holds none.
        """
        file = path / "hub.json"
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: holds no hub; make one with: fedseg hub init --folder {path} "
                "--address HOST:PORT"
            ) from error
        settings, problems = as_typed(HubSettings, plain)
        if settings is None:
            where, what = problems[0]
            raise InputError(f"{file}: {'.'.join(map(str, where))}: {what}")
        return cls(path.resolve(), settings)

    @property
    def registry(self) -> Registry:
        """What the hub knows of its sites, studies and runs."""
        return Registry(self.path / "registry.db")

    @property
    def pki(self) -> Path:
        """Certificate authorities."""
        return self.path / "pki"

    @property
    def root(self) -> Path:
        """Certificate that vouches for the hub."""
        return self.pki / "root.crt"

    @property
    def executor_secret(self) -> Path:
        """What SuperLink and its executor share."""
        return self.path / "secrets" / "executor"

    @property
    def audit_key(self) -> Path:
        """What signs the heads of the audit log; PEM, Ed25519."""
        return self.path / "secrets" / "audit.key"

    @property
    def control_socket(self) -> Path:
        """Where the proxy reaches the control service."""
        return self.path / "run" / "control.sock"

    @property
    def nginx(self) -> Path:
        """The proxy's folder."""
        return self.path / "nginx"

    @property
    def runs(self) -> Path:
        """Folders of runs."""
        return self.path / "runs"

    @property
    def app(self) -> Path:
        """The app that Flower bundles."""
        return self.path / "flower" / "fedseg"

    def flower_home(self, name: str) -> Path:
        """Return the home of one of Flower's processes."""
        home = self.path / "flower" / name
        home.mkdir(parents=True, exist_ok=True)
        return home

    @property
    def flower(self) -> Flower:
        """Flower's commands for the SuperLink."""
        address = f"127.0.0.1:{self.settings.superlink_port}"
        return Flower(self.flower_home("desk"), address, self.root)
