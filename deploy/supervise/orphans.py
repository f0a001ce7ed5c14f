"""Processes that a supervised program started and left behind.

Flower's executors start a process for each task and do not wait for it. When such an executor
ends, its processes go to the nearest ancestor that adopts orphans, else to the machine's first
process, which in a container may not care for them. A supervisor adopts them, so that it can
end what still runs and nothing is left as a dead entry in the table of processes.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
LOOK_SECONDS = 0.05


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury(watched: Collection[int] = ()) -> None:
    """Take adopted processes that have ended out of the table of processes.

    Args:
        watched: Children that somebody else waits for; where one of them is found first, the
            rest is left for the next time.
    """
    with suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in watched:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


def end_descendants(seconds: float) -> int:
    """End all processes below this one: asked first, killed after a time, and buried.

    Returns:
        How many there were.
    """
    bury()
    found = descendants(os.getpid())
    _send(found, signal.SIGTERM)
    until = time.monotonic() + seconds
    while left := descendants(os.getpid()):
        if time.monotonic() > until:
            _send(left, signal.SIGKILL)
            until = time.monotonic() + seconds
        time.sleep(LOOK_SECONDS)
        bury()
    return len(found)


def descendants(pid: int) -> list[int]:
    """Return all processes below one, parents before their children."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            text = path.read_text(encoding="utf-8", errors="replace")
            parent = int(text.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _send(processes: Collection[int], number: int) -> None:
    for pid in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
