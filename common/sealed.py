"""JSON records that say what they are and carry their own checksum.

::

    {"file": "journal/round-0007.json", "record": ..., "run": "20270101-...", "sha256": "..."}

The checksum is over the other three. A file counts only where it is, byte for byte, what would
be written for what it holds: a flipped bit is found wherever it is, and so is a record that was
copied from another run or from another place in this one.

It finds accidents, not forgery: whoever may write the file can write its checksum too.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from common.errors import DamagedError, RunError
from common.files import write_text

MISSING = "is missing"
FIELDS = {"file", "record", "run", "sha256"}


def write_sealed(path: Path, record: Any, *, file: str, run: str) -> None:
    """Write a record, whole or not at all.

    Args:
        path: Where it appears.
        record: What JSON can hold.
        file: What the record calls itself: its place in the run's folder.
        run: Identifier of the run that it belongs to.

    Raises:
        StorageError: If it cannot be written; nothing is left.
    """
    # there and back once, so that what is sealed is what a reader will have
    write_text(path, _sealed(json.loads(json.dumps(record)), file, run))


def read_sealed(path: Path, *, file: str, run: str | None) -> Any:
    """Read a record that is whole, and what it should be.

    Args:
        path: The file.
        file: What the record must call itself.
        run: The run that it must belong to; None for any.

    Raises:
        DamagedError: If it is missing, or is not what was written there.
        RunError: If this process may not read it.
    """
    data = _bytes_of(path)
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "cannot be read: it is half written, or damaged" if data else "is empty"
        raise DamagedError(path, what) from error
    if not isinstance(told, dict) or set(told) != FIELDS:
        raise DamagedError(path, "carries no checksum, so nobody can tell if it is damaged")
    if data != _sealed(told["record"], told["file"], told["run"]).encode():
        raise DamagedError(path, "was changed after it was written: its checksum does not fit")
    if run is not None and told["run"] != run:
        raise DamagedError(path, f"is not what belongs there: it is of run {told['run']}")
    if told["file"] != file:
        raise DamagedError(path, f"is not what belongs there: it was {told['file']}")
    return told["record"]


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(path, MISSING) from error
    except PermissionError as error:  # no damage: others than this process may read it
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError as error:
        raise DamagedError(path, f"cannot be read: {error.strerror}") from error


def _sealed(record: Any, file: Any, run: Any) -> str:
    told = {"file": file, "record": record, "run": run}
    text = json.dumps(told, indent=1, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-2]},\n "sha256": "{digest}"\n}}\n'
