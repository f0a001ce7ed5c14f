"""The hub's nginx: one public port in front of Flower's SuperLink and our own gRPC.

nginx verifies the sites' certificates and tells the calls apart; the template says how. It
reads the authorities' files, see :mod:`deploy.provision.pki_files`, and keeps everything else
in one folder::

    nginx.conf      from the template
    bind.map        which Flower node key belongs to which site
    logs/           access.log, a JSON object a line, and error.log; the older ones are numbered
    temp/, nginx.pid
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.errors import InputError, RunError
from common.files import write_text
from common.messages import SITE_NAME
from deploy.provision.pki_files import PkiFiles

TEMPLATES = Path(__file__).parent / "templates"
CONFIGURATION = "nginx.conf"
BINDINGS = "bind.map"
PID = "nginx.pid"
LOGS, ACCESS_LOG = "logs", "access.log"
LARGEST_LOG_BYTES, OLD_LOGS_KEPT = 20_000_000, 3
LONGEST_SOCKET_PATH = 107
SBIN = ("/usr/sbin", "/usr/local/sbin")  # not in everybody's PATH
_PLAIN_PATH = re.compile(r"/[\w/.,@+=~-]*")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9.:-]+|\*")
_NODE_HEADER = re.compile(r"[A-Za-z0-9+/]{40,1000}={0,2}")


@final
@dataclass(frozen=True, kw_only=True)
class NginxSettings:
    """What is particular to one hub.

    Attributes:
        folder: nginx's own.
        pki: The authorities' folder.
        host: Address to listen on; ``*`` for all of IPv4.
        port: The public port.
        superlink_port: Of the SuperLink, on 127.0.0.1, over TLS.
        control_socket: Unix socket of the hub's gRPC services; nginx's workers must be allowed
            to connect to it.
        user: Whom the workers run as where nginx is started by root; None where it is started
            by the hub's own user, which is enough for every port from 1024.
        enrolment_body_bytes: Most that a stranger may send at once.
        fleet_body_bytes: Most that a Flower node may send at once.
        joins_per_minute: By address; 20 more are let through at once.
        connections_per_address: At the same time, HTTP/2 streams counted each.
    """

    folder: Path
    pki: Path
    host: str
    port: int
    superlink_port: int
    control_socket: Path
    user: str | None = None
    enrolment_body_bytes: int = 64 << 10
    fleet_body_bytes: int = 64 << 20
    joins_per_minute: int = 10
    connections_per_address: int = 64

    def __post_init__(self) -> None:
        for path in (self.folder, self.pki, self.control_socket):
            if not _PLAIN_PATH.fullmatch(str(path)):
                raise InputError(
                    f"{path}: nginx needs a full path of letters, digits and /.,@+=~_- ; "
                    "choose another folder"
                )
        if len(os.fsencode(self.control_socket)) > LONGEST_SOCKET_PATH:
            raise InputError(
                f"{self.control_socket}: is longer than the {LONGEST_SOCKET_PATH} bytes of a "
                "socket's path; choose a shorter folder"
            )
        if not _HOST.fullmatch(self.host):
            raise InputError(f"host {self.host!r}: is no address to listen on")
        if self.user is not None and not _USER.fullmatch(self.user):
            raise InputError(f"user {self.user!r}: is no name of a user")
        for port in (self.port, self.superlink_port):
            if not 0 < port < 1 << 16:
                raise InputError(f"port {port}: must be 1 to 65535")


def render(settings: NginxSettings) -> str:
    """Return the configuration as text."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 # no HTML; NginxSettings lets no special character in
    )
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    values = asdict(settings) | {
        "pki": PkiFiles(settings.pki),
        "listen": f"{host}:{settings.port}",
    }
    return environment.get_template(f"{CONFIGURATION}.j2").render(values)


def write_configuration(settings: NginxSettings) -> None:
    """Write the configuration and the folders that nginx needs; bindings that exist are kept.

    Raises:
        RunError: If something cannot be written.
    """
    folder = settings.folder
    try:
        for name in (LOGS, "temp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    if not (folder / BINDINGS).exists():
        write_bindings(folder, ())
    write_text(folder / CONFIGURATION, render(settings))


def write_bindings(folder: Path, bindings: Iterable[tuple[str, str]]) -> None:
    """Say which Flower node keys belong to which sites; :func:`reload` puts it in force.

    Args:
        folder: nginx's own.
        bindings: A site's name and its node's header, see
            :func:`deploy.provision.public_keys.node_header`; several nodes a site are allowed.

    Raises:
        InputError: If one of them is none; nothing is written.
        RunError: If the file cannot be written.
    """
    write_text(folder / BINDINGS, "".join(_binding(*pair) for pair in bindings))


def command(folder: Path) -> list[str]:
    """Return the command that runs nginx in the foreground, until SIGQUIT or SIGTERM.

    Raises:
        RunError: If nginx is not installed.
    """
    log = str(folder / LOGS / "error.log")
    return [*_nginx(folder), "-e", log, "-g", "daemon off;"]


def check(folder: Path) -> None:
    """Let nginx test its configuration, with all files that it names.

    Raises:
        RunError: With nginx's own words, if it would not start with it.
    """
    _run([*_nginx(folder), "-e", "stderr", "-q", "-t"])


def reload(folder: Path) -> None:
    """Put new bindings, lists and certificates in force, without closing the port.

    Tested first: nginx keeps what it has where the new is broken, and would not say so.

    Raises:
        RunError: If the configuration is broken or nginx does not run.
    """
    check(folder)
    if not is_up(folder):
        raise RunError(f"{folder}: nginx does not run; start the hub")
    _run([*_nginx(folder), "-e", "stderr", "-s", "reload"])


def is_up(folder: Path) -> bool:
    """Whether nginx has written down its process; a mere test leaves an empty file."""
    try:
        return bool((folder / PID).read_text(encoding="ascii").strip())
    except OSError:
        return False


def rotate_logs(folder: Path) -> None:
    """Put logs that have grown large aside, and let nginx begin new ones.

    Raises:
        RunError: If a log cannot be renamed, or nginx does not take the signal; called again,
            this mends what is half done.
    """
    if not is_up(folder):
        return
    logs = [folder / LOGS / name for name in (ACCESS_LOG, "error.log")]
    try:
        full = [log for log in logs if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES]
        for log in full:
            _shift(log)
    except OSError as error:
        raise RunError(f"{error.filename}: cannot be put aside: {error.strerror}") from error
    if not all(log.exists() for log in logs):
        _run([*_nginx(folder), "-e", "stderr", "-s", "reopen"])


def _shift(log: Path) -> None:
    names = [log, *(log.with_name(f"{log.name}.{n}") for n in range(1, OLD_LOGS_KEPT + 1))]
    for older, newer in zip(reversed(names), reversed(names[:-1]), strict=False):
        if newer.exists():
            newer.replace(older)


def _binding(site: str, node_header: str) -> str:
    if not SITE_NAME.fullmatch(site):
        raise InputError(f"site {site!r}: is no name of a site")
    if not _NODE_HEADER.fullmatch(node_header):
        raise InputError(f"site {site}: its node's key is not the base64 that Flower sends")
    return f'"~^CN={re.escape(site)},O=fedseg {re.escape(node_header)}$" 1;\n'


def _nginx(folder: Path) -> list[str]:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SBIN])
    found = shutil.which("nginx", path=path)
    if found is None:
        raise RunError("nginx: is not installed; install it (nginx-light is enough)")
    return [found, "-p", str(folder), "-c", str(folder / CONFIGURATION)]


def _run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"nginx: {done.stderr.strip() or f'ended with {done.returncode}'}")
