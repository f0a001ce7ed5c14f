"""Which certificates a hub has revoked, and how many lists it has published of them.

Kept as JSON beside the keys, because a list only repeats it: a new list is always written from
this file. Losing it would bring revoked sites back, so nothing goes on without it.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from common.errors import InputError, RunError
from common.files import write_json
from common.study.typed import as_typed
from deploy.provision.certificates import serial_hex


@dataclass(frozen=True, kw_only=True)
class Revocations:
    """The register.

    Attributes:
        number: Of the last lists that were written; each is written with the next.
        revoked: When each certificate was revoked (ISO 8601), by serial number as nginx
            writes it.
    """

    number: int  # without defaults: an empty file is a damaged one
    revoked: dict[str, str]

    def with_revoked(self, serial: str, now: datetime) -> "Revocations":
        """Return the register with one more certificate; a repetition keeps the first date.

        Raises:
            InputError: If ``serial`` is no serial number.
        """
        known = serial_hex(parse_serial(serial))
        moment = now.replace(microsecond=0).isoformat()
        return replace(self, revoked={known: moment} | self.revoked)

    def next(self) -> "Revocations":
        """Return the register under the number of the next lists."""
        return replace(self, number=self.number + 1)

    def moments(self) -> dict[int, datetime]:
        """Return when each serial number was revoked."""
        return {int(s, 16): datetime.fromisoformat(when) for s, when in self.revoked.items()}


def parse_serial(text: str) -> int:
    """Read a serial number, hexadecimal in either case.

    Raises:
        InputError: If it is none.
    """
    try:
        serial = int(text, 16)
    except ValueError:
        serial = 0
    if not 0 < serial < 1 << 160:  # RFC 5280, section 4.1.2.2: at most 20 bytes
        raise InputError(
            f"serial number {text!r}: is none; expected hexadecimal digits as in the register"
        )
    return serial


def read_revocations(path: Path) -> Revocations:
    """Read the register.

    Raises:
        RunError: If it is missing or damaged.
    """
    try:
        value, problems = as_typed(Revocations, json.loads(path.read_text(encoding="utf-8")))
        if value is not None:
            value.moments()
            return value
        what = problems[0][1]
    except (OSError, ValueError) as error:
        what = str(error)
    raise RunError(
        f"{path}: cannot be read: {what}; without it revoked sites would come back, restore it "
        "from the backup"
    )


def write_revocations(path: Path, register: Revocations) -> None:
    """Write the register, whole or not at all."""
    write_json(path, asdict(register))


@contextmanager
def revoking(folder: Path) -> Iterator[None]:
    """Hold a folder's register; another process that wants it waits.

    Without this, of two revocations at the same time one could be lost.

    Raises:
        RunError: If the folder may not be written.
    """
    try:
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
