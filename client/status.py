"""What a worker is doing: one value that its threads change and others may watch."""

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

from common.events import fields_of

IDLE, RECEIVING, PREPARING, VALIDATING, TRAINING, SENDING = (
    "idle", "receiving", "preparing", "validating", "training", "sending",
)  # fmt: skip
# events of the site's work, the phase that they belong to, and their fields of how far it is
PROGRESS = {
    "reading": (PREPARING, "done", "of"),
    "step": (TRAINING, "step", "steps"),
    "case_scored": (VALIDATING, "done", "of"),
}


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a worker is doing.

    Attributes:
        run: Of the newest job.
        hash: Of its study.
        round: Of the job.
        phase: ``idle``, ``receiving``, ``preparing``, ``validating``, ``training``,
            ``sending``.
        done: Cases, or steps, of this phase that are done.
        total: How many there are.
        bytes_in: Bytes of arrays that came for this run since the worker started.
        bytes_out: Bytes of arrays that were sent.
    """

    run: str = ""
    hash: str = ""
    round: int = 0
    phase: str = IDLE
    done: int = 0
    total: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@final
class StatusBoard(logging.Handler):
    """Holds the newest status; as a handler of the site's events it follows the progress."""

    def __init__(self) -> None:
        super().__init__()
        self._status, self._changes = Status(), 0
        self._changed = threading.Condition()

    def now(self) -> Status:
        """Return the newest status."""
        with self._changed:
            return self._status

    def job(self, *, run: str, study: str, number: int) -> None:
        """Say which job the work belongs to; another run begins to count its bytes anew."""
        with self._changed:
            if run != self._status.run:
                self._status = Status()
            self.show(PREPARING, run=run, hash=study, round=number)

    def show(self, phase: str, *, done: int = 0, total: int = 0, **changes: Any) -> None:
        """Change the status."""
        with self._changed:
            self._status = replace(self._status, phase=phase, done=done, total=total, **changes)
            self._changes += 1
            self._changed.notify_all()

    def count(self, *, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Add to the bytes that came and went."""
        with self._changed:
            now = self._status
            self.show(
                now.phase,
                done=now.done,
                total=now.total,
                bytes_in=now.bytes_in + bytes_in,
                bytes_out=now.bytes_out + bytes_out,
            )

    def emit(self, record: logging.LogRecord) -> None:
        """Follow an event of the site's work."""
        known = PROGRESS.get(record.getMessage())
        if known is not None:
            phase, done, total = known
            fields = fields_of(record)
            self.show(phase, done=int(fields[done]), total=int(fields[total]))

    def changes(self, wait_seconds: float) -> Iterator[Status]:
        """Yield the status now and after each change, or after so many seconds without one."""
        seen = -1
        while True:
            with self._changed:
                if self._changes == seen:
                    self._changed.wait(wait_seconds)
                seen, status = self._changes, self._status
            yield status
