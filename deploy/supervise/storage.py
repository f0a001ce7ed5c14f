"""Whether a run's folder can be written, and what to tell the coordinator where it cannot."""

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from common.errors import StorageError

PROBE_BYTES = 64 << 10
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
GOES_ON = "the run goes on by itself"
DISK_FULL = f"the hub's disk is full: free space for its folder of runs; {GOES_ON}"


def check_writable(folder: Path) -> None:
    """Look whether a run can write what its next step will.

    That is at least its weights once more: those of a round are on disk before the older ones
    are removed.

    Args:
        folder: The run's.

    Raises:
        StorageError: With what is to be done. The folder's role is named, not its path: sites
            are told why a run waits.
    """
    try:
        _write_probe(folder / f".probe.{os.getpid()}.part")
        needed = PROBE_BYTES + (folder / "initial.safetensors").stat().st_size
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except FileNotFoundError:
        return  # not the disk's fault; whoever reads the run says what is missing
    except OSError as error:
        raise StorageError(sentence_of(error)) from error


def sentence_of(error: OSError) -> str:
    """Return what a coordinator should do about a run's folder that cannot be written."""
    if error.errno in NO_ROOM:
        return DISK_FULL
    return (
        f"the hub's folder of runs cannot be written: {error.strerror}; make it writable "
        f"again; {GOES_ON}"
    )


def _write_probe(path: Path) -> None:
    try:
        with path.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
