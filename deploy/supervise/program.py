"""One program under a supervisor: how it is started, and how often again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

CHILD = Path(__file__).with_name("child.py")
STEADY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is to be kept running.

    Attributes:
        name: In logs and in the status.
        command: Absolute path and arguments.
        folder: Working directory.
        environment: On top of the supervisor's own.
        after: Programs that must be ready before this one is started.
        ready: Whether it can do its work; by default, whether it runs.
        pauses: Seconds before the first, second, ... start anew; the last one goes on. It
            starts over once the program ran for a minute.
        pause_after: Longer pauses for some exit codes.
        stop_seconds: From SIGTERM to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ready: Callable[[], bool] | None = None
    pauses: tuple[float, ...] = (0.2, 1.0, 3.0, 10.0, 30.0)
    pause_after: Mapping[int, float] = field(default_factory=dict)
    stop_seconds: float = 10.0


def port_open(port: int, host: str = "127.0.0.1") -> Callable[[], bool]:
    """Return a test whether something listens on a port."""

    def test() -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex((host, port)) == 0

    return test


def socket_open(path: Path) -> Callable[[], bool]:
    """Return a test whether something listens on a unix socket."""

    def test() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(str(path)) == 0

    return test


@final
class Running:
    """A program with its process, if it has one now.

    Attributes:
        program: What is kept running.
        starts: How often it was started.
        exit_code: Of its last end; None before.
        next_start: Monotonic time before which it is not started again.
    """

    def __init__(self, program: Program, told: Callable[[str, str], None]) -> None:
        self.program, self._told = program, told
        self.starts = 0
        self.exit_code: int | None = None
        self.next_start = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._since = 0.0

    @property
    def pid(self) -> int | None:
        """Process identifier, or None."""
        return self._process.pid if self._process is not None else None

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self._process is not None

    @property
    def is_ready(self) -> bool:
        """Whether it runs and can do its work."""
        return self.runs and (self.program.ready is None or self.program.ready())

    def start(self) -> None:
        """Start it in a process group of its own; its lines go to the supervisor's log."""
        program = self.program
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(CHILD), str(os.getpid()), *program.command],
            cwd=program.folder,
            env={**os.environ, **program.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.starts += 1
        self._since = time.monotonic()
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - asked for above
        for line in process.stdout:
            self._told(self.program.name, line.decode(errors="replace").rstrip())

    def notice_end(self) -> bool:
        """Look whether the process ended; then clear up and choose when to start anew."""
        if self._process is None or (code := self._process.poll()) is None:
            return False
        kill_group(self._process.pid)
        self.exit_code, self._process = code, None
        steady = time.monotonic() - self._since > STEADY_SECONDS
        self._failures = 0 if steady else self._failures
        pauses = self.program.pauses
        pause = pauses[min(self._failures, len(pauses) - 1)]
        pause = max(pause, self.program.pause_after.get(code, 0.0))
        self._failures += 1
        self.next_start = time.monotonic() + pause
        return True

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.terminate()

    def finish(self, until: float) -> None:
        """Wait for its end until a monotonic time, then kill it and all that it started."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._told(self.program.name, "did not end in time; killed")
        kill_group(self._process.pid)
        self.exit_code = self._process.wait()
        self._process = None


def kill_group(pid: int) -> None:
    """Kill what is left of a process group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
