"""A case that ends the process that reads it, in native code or for want of memory.

While a case is read, a file names it. A process that finds such a file was ended by that case,
or while it was read: from then on each case is first read by a child process, and one that ends
the child is set aside as any other unusable case is. A site whose cases are sound starts none.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, final

from client.data.dataset import CaseFiles
from client.data.reading import read_case
from common.errors import CaseError
from common.files import write_json
from common.study import Study

READING, SUSPECTS = "reading", "suspects.json"
CRASHED = "crashes_reader"


@final
class ReadingGuard:
    """Guards the reading of cases.

    Args:
        folder: Where it remembers; the site's own, kept between processes.
        read: Reads a case in the child, to see whether it can be read.

    Raises:
        StorageError: If nothing can be written there.
    """

    def __init__(
        self, folder: Path, read: Callable[[CaseFiles, Study], Any] = read_case
    ) -> None:
        self._marker, self._memory, self._read_case = folder / READING, folder / SUSPECTS, read
        self._suspects = _read_names(self._memory)
        self._is_wary = self._marker.exists()
        self._pool: ProcessPoolExecutor | None = None
        if self._is_wary:
            with suppress(OSError, UnicodeDecodeError):
                self._remember(self._marker.read_text("utf-8"))
            self._marker.unlink(missing_ok=True)

    @contextmanager
    def reading(self, case: CaseFiles, study: Study) -> Iterator[None]:
        """Hold a file that names the case while the block reads it.

        Raises:
            CaseError: ``crashes_reader``, if a child process that read it was ended.
        """
        name = identity_of(case)
        if self._is_wary or name in self._suspects:
            self._try(case, study, name)
        with suppress(OSError):  # a full disk must not keep a case from being read
            self._marker.write_text(name, "utf-8")
        try:
            yield
        finally:
            with suppress(OSError):
                self._marker.unlink(missing_ok=True)

    def close(self) -> None:
        """End the child, if there is one."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _try(self, case: CaseFiles, study: Study, name: str) -> None:
        if self._pool is None:
            # a fork would copy the locks of threads that it does not copy
            self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            self._pool.submit(_survive, self._read_case, case, study).result()
        except BrokenProcessPool as error:
            self.close()
            self._remember(name)
            raise CaseError(
                CRASHED,
                f"case {case.name}: the process that read it was ended by the system; the file "
                "is damaged in a way that its reader does not survive, or too large for this "
                "machine's memory; export it again",
            ) from error
        self._forget(name)

    def _remember(self, name: str) -> None:
        if name and name not in self._suspects:
            self._suspects.add(name)
            write_json(self._memory, sorted(self._suspects))

    def _forget(self, name: str) -> None:
        if name in self._suspects:
            self._suspects.discard(name)
            write_json(self._memory, sorted(self._suspects))


def identity_of(case: CaseFiles) -> str:
    """Return a hash of a case's files, another one once a file was replaced."""
    digest = hashlib.sha256()
    for path in (*case.images, *([case.label] if case.label else [])):
        with suppress(OSError):  # reading it says what is wrong
            found = path.stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _survive(read: Callable[[CaseFiles, Study], Any], case: CaseFiles, study: Study) -> None:
    """Read a case for the sake of being there afterwards."""
    with suppress(Exception):  # an ordinary error is the parent's to meet and to count
        read(case, study)


def _read_names(path: Path) -> set[str]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return set()
    return {str(name) for name in found} if isinstance(found, list) else set()
