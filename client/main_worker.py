"""``python -m client.main_worker``: a site's worker, which lives as long as the site does.

It alone reads cases. Messengers and watchers reach it through a unix socket. What people
decided is in ``FOLDER/consent``, which their group may write. Its own are ``FOLDER/state``
(what runs left), ``FOLDER/answers`` and ``FOLDER/log``.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from client.auditing import audit
from client.consent import Consent
from client.profile import load_profile
from client.service import WorkerService
from client.serving import owning, serving
from client.worker import SiteWorker
from common.errors import FedsegError, ProfileError, RunError
from common.events import SITE, JsonLines, emit

END_SECONDS = 10.0  # a step, or a case, that was begun


def run(profile: Path, folder: Path, socket: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        profile: The site's profile.
        folder: The site's own.
        socket: Where messengers ask.

    Raises:
        ProfileError: If the profile cannot be used.
        RunInUseError: If another worker of this site runs.
        RunError: If a folder or the socket cannot be made.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    made = {name: folder / name for name in ("state", "answers", "log")}
    try:
        for path in made.values():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be used: {error.strerror}") from error
    with owning(folder / "worker.lock"):
        worker = SiteWorker(
            load_profile(profile),
            str(profile),
            made["state"],
            consent=Consent(folder / "consent"),
            checkpoints=True,
        )
        SITE.setLevel(logging.INFO)
        SITE.addHandler(JsonLines(made["log"] / "worker.jsonl"))
        SITE.addHandler(worker.status)
        audit(folder)
        service = WorkerService(worker, made["answers"], partial(trouble_of, profile))
        with serving(service, socket):
            emit(SITE, "worker_started", site=worker.profile.name)
            stop.wait()
        emit(SITE, "worker_ended", site=worker.profile.name)
        _wait_for_job(service)


def trouble_of(profile: Path) -> str:
    """Return, in a fixed sentence, what keeps a profile from being used; empty for nothing."""
    try:
        folders = [entry.folder for entry in load_profile(profile).datasets]
    except ProfileError:
        return "the site's profile cannot be read"
    # os.path's takes a folder that may not be looked at for one that is not there
    missing = not all(map(os.path.isdir, folders))
    return "a dataset's folder is not there" if missing else ""


def _wait_for_job(service: WorkerService) -> None:
    """Let the step under way end; one that takes too long is cut, all files being whole."""
    ended = threading.Event()
    for _ in range(int(END_SECONDS * 10)):
        if not service.is_busy:
            return
        ended.wait(0.1)
    logging.shutdown()
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, serve, and end with the code of what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m client.main_worker")
    for name in ("--profile", "--folder", "--socket"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args(arguments)
    os.umask(0o007)
    try:
        run(given.profile, given.folder, given.socket)
    except FedsegError as error:
        sys.stderr.write(f"worker: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
