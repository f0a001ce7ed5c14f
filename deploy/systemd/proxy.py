"""``python -m deploy.systemd.proxy HUB``: nginx with a user of its own, which looks for itself.

A signal can be sent by the same user alone, and nginx's test of its configuration opens its log
and its process number for writing. So where the registrar is another user, which the keys of
the authorities ask for, it only writes new bindings and lists; this process sees that, lets
nginx test and take them, and says in ``nginx/in-force`` what nginx works with. It keeps nginx's
logs short for the same reason.
"""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from common.errors import FedsegError, RunError
from common.files import write_text
from deploy.provision.nginx import (
    BINDINGS,
    CONFIGURATION,
    PID,
    command,
    is_up,
    reload,
    rotate_logs,
)
from deploy.provision.pki_files import PkiFiles
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.program import CHILD, kill_group

LOG = logging.getLogger("fedseg.proxy")
IN_FORCE = "in-force"
LOOK_SECONDS = 0.25
STOP_SECONDS = 8.0


def inputs_of(nginx: Path) -> str:
    """Return a SHA-256, hexadecimal, of everything that nginx reads and somebody may change.

    Args:
        nginx: The proxy's folder within the hub's.

    Raises:
        RunError: If something cannot be read.
    """
    pki = PkiFiles(nginx.parent / "pki")
    files = [nginx / CONFIGURATION, nginx / BINDINGS, pki.lists, pki.hub_chain]
    digest = hashlib.sha256()
    try:
        for path in (*files, pki.sites_authorities, pki.root):
            content = path.read_bytes()
            digest.update(len(content).to_bytes(8, "big") + content)
    except OSError as error:
        raise RunError(f"{error.filename}: {error.strerror}") from error
    return digest.hexdigest()


def watch(nginx: Path, process: "subprocess.Popen[bytes]", stop: threading.Event) -> None:
    """Let nginx take what changed, until it ends or is to end.

    Args:
        nginx: The proxy's folder.
        process: Of nginx.
        stop: Set when it is to end.
    """
    tried = ""
    while process.poll() is None and not stop.wait(LOOK_SECONDS):
        try:
            rotate_logs(nginx)
            found = inputs_of(nginx)
            if found == tried or not is_up(nginx):
                continue
            tried = found
            reload(nginx)
        except RunError as error:
            LOG.error("%s; nginx goes on with what it had", error)  # noqa: TRY400 - a sentence
            continue
        write_text(nginx / IN_FORCE, found + "\n")
        LOG.info("nginx works with %s", found[:12])


def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start nginx in a group of its own; it ends when this process is killed."""
    become = [sys.executable, "-S", "-E", str(CHILD), str(os.getpid())]
    return subprocess.Popen([*become, *command], start_new_session=True)


def main() -> None:
    """Run nginx until told to end, or until it ends."""
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
    try:
        hub = HubFolder.open(Path(sys.argv[1]))
        (hub.nginx / PID).unlink(missing_ok=True)  # of one that was killed
        process = start(command(hub.nginx))
    except FedsegError as error:
        sys.exit(f"proxy: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch(hub.nginx, process, stop)
    process.terminate()
    try:
        code = process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    kill_group(process.pid)  # workers outlive a master that was killed, and hold the port
    sys.exit(0 if stop.is_set() else code or 1)


if __name__ == "__main__":
    main()
