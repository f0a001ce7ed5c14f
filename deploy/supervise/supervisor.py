"""Keeps a set of programs running, in order, and ends them cleanly."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, final

from common.errors import StorageError
from common.files import write_json
from deploy.supervise.orphans import adopt_orphans, bury, end_descendants
from deploy.supervise.program import Program, Running, kill_group
from server.journal import owning

LOG = logging.getLogger("fedseg.supervisor")
LOOK_SECONDS = 0.1
LOG_BYTES, LOGS_KEPT = 20_000_000, 5
ORPHAN_SECONDS = 5.0  # from SIGTERM to SIGKILL of what programs left behind at the end


@final
class Supervisor:
    """Starts programs when those before them are ready, and again when they end.

    One supervisor a folder; a second is refused. What a supervisor that was killed left behind
    is ended first.

    Args:
        programs: In the order of starting.
        folder: For the status, the log and the lock.
        chores: Called about once a second, in this thread; an exception is logged, not fatal.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        folder: Path,
        chores: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._running = {p.name: Running(p, _tell) for p in programs}
        self._folder, self._chores = folder, list(chores)
        self._stop = threading.Event()
        self._ready_told: set[str] = set()
        self._chored = 0.0
        self._told, self._disk_told = True, False

    @property
    def status_file(self) -> Path:
        """Where the state of all programs is written."""
        return self._folder / "status.json"

    def add_chore(self, chore: Callable[[], None]) -> None:
        """Call this about once a second as well."""
        self._chores.append(chore)

    def stop(self) -> None:
        """End all programs and return from :meth:`run`."""
        self._stop.set()

    def restart(self, name: str) -> None:
        """End one program; it is started again at once."""
        running = self._running[name]
        running.terminate()

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or :meth:`stop`.

        Raises:
            RunInUseError: If another supervisor holds the folder.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with owning(self._folder):
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, lambda *_: self._stop.set())
            end_leftovers(self.status_file)
            adopt_orphans()
            try:
                while not self._stop.wait(LOOK_SECONDS):
                    self._look()
            finally:
                self._end()

    def _look(self) -> None:
        changed = False
        for name, running in self._running.items():
            if running.notice_end():
                LOG.warning("%s ended with code %s", name, running.exit_code)
                self._ready_told.discard(name)
                changed = True
            elif not running.runs and self._may_start(running):
                running.start()
                LOG.info("%s started, process %s", name, running.pid)
                changed = True
            elif name not in self._ready_told and running.is_ready:
                self._ready_told.add(name)
                LOG.info("%s ready", name)
                changed = True
        self._told = self._told and not changed
        if not self._told:
            self._write_status()
        if time.monotonic() - self._chored >= 1.0:
            self._chored = time.monotonic()
            bury({running.pid for running in self._running.values() if running.pid})
            self._do_chores()

    def _may_start(self, running: Running) -> bool:
        return time.monotonic() >= running.next_start and all(
            self._running[name].is_ready for name in running.program.after
        )

    def _do_chores(self) -> None:
        for chore in self._chores:
            try:
                chore()
            except Exception:
                LOG.exception("%s failed; tried again in a second", chore.__name__)

    def _write_status(self) -> None:
        """Write how the programs are; where the disk is full, at one of the next looks."""
        status = {
            "supervisor": {"pid": os.getpid(), "started": _started(os.getpid())},
            "programs": {name: self._status(r) for name, r in self._running.items()},
        }
        try:
            write_json(self.status_file, status)
        except StorageError as error:
            if not self._disk_told:
                LOG.warning("%s; the programs go on, make room", error)
            self._disk_told = True
            return
        self._told, self._disk_told = True, False

    def _status(self, running: Running) -> dict[str, Any]:
        return {
            "pid": running.pid,
            "started": _started(running.pid) if running.pid else None,
            "ready": running.program.name in self._ready_told,
            "starts": running.starts,
            "exit_code": running.exit_code,
        }

    def _end(self) -> None:
        """End in the reverse order of starting, and then whatever is left of any of them."""
        for name, running in reversed(self._running.items()):
            running.terminate()
            running.finish(time.monotonic() + running.program.stop_seconds)
            self._ready_told.discard(name)
        if left := end_descendants(ORPHAN_SECONDS):
            LOG.info("%s processes that programs had left behind were ended", left)
        self._write_status()
        LOG.info("all ended")


def _tell(name: str, line: str) -> None:
    logging.getLogger(f"fedseg.{name}").info(line)


def _started(pid: int) -> str | None:
    """Return the kernel's start time of a process, which tells it from a later one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def end_leftovers(status_file: Path) -> None:
    """End programs that a killed supervisor left behind."""
    try:
        held = json.loads(status_file.read_text(encoding="utf-8"))["programs"]
    except (OSError, ValueError, KeyError):
        return
    for name, program in held.items():
        pid = program.get("pid")
        if pid and program.get("started") and _started(pid) == program["started"]:
            LOG.warning("%s was left running by another life, process %s; ended", name, pid)
            kill_group(pid)


def log_to(path: Path, *, quiet: bool = False) -> None:
    """Send everything that is logged to one file that rotates, and to the terminal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = logging.Formatter("%(asctime)s %(name)s %(message)s")
    handlers: list[logging.Handler] = [
        RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8")
    ]
    if not quiet:
        handlers.append(logging.StreamHandler())
    root = logging.getLogger("fedseg")
    root.setLevel(logging.INFO)
    for handler in handlers:
        handler.setFormatter(form)
        root.addHandler(handler)
