"""Files and folders that hold keys: nobody else's to read, and whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError, RunError
from common.files import sync_folder


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all.

    Raises:
        RunError: If the disk is full or the folder may not be written; nothing is left.
    """
    temporary = None
    try:
        # mkstemp creates with 0600 at once, whatever the umask: at no time can others read it
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".part", dir=path.parent
        )
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror}; nothing was changed"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_private_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder of mode 0700 that appears under its name only when the block succeeds.

    So keys never overwrite others, and a crash leaves no half of an authority.

    Args:
        folder: Must not exist, or be empty.

    Yields:
        The folder to write to, beside the final one.

    Raises:
        InputError: If ``folder`` holds something; it is not touched.
        RunError: If it cannot be made.
    """
    _check_free(folder)
    part = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(
            tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent)
        )
        yield part
        sync_folder(part)
        _check_free(folder)
        part.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: is not empty, and keys are never overwritten; choose another folder, "
            "or move this one away"
        )


def read_file(path: Path) -> bytes:
    """Read one of the files that a keys folder must hold.

    Raises:
        InputError: If it is not there or may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; restore the folder from its backup"
        ) from error
