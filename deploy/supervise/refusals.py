"""Node keys that came with the certificate of a site that they do not belong to.

nginx refuses them and logs each with the caller's site. Whose key it was, it cannot say: the
hub's register can.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, final

from common.errors import FedsegError, RunError
from common.events import HUB, emit
from deploy.provision.public_keys import node_header_of
from server.registry import Registry, SiteRow

REFUSED = 401
NOBODY = "no site of this hub"
AGAIN_SECONDS = 60.0  # until the same pair is told again
LARGEST_PIECE, LARGEST_LOG = 4 << 20, 1 << 40
LOOK_BACK_BYTES = 256 << 10
LOOK_BACK = timedelta(minutes=1)  # at the start: what came while nobody looked


@final
class LogTail:
    """What is added to a log that somebody else writes, and renames when it is long.

    Args:
        path: The log; it need not be there yet.
        back: Bytes of it to begin with.
    """

    def __init__(self, path: Path, back: int) -> None:
        self._path, self._back = path, back
        self._file: IO[bytes] | None = None
        self._rest = b""

    def lines(self) -> list[bytes]:
        """Return the whole lines since the last call, of at most some megabytes.

        Raises:
            RunError: If the log cannot be read.
        """
        try:
            new = self._read()
            if not new and self._goes_on_elsewhere():
                self._open()
                new = self._read()
        except OSError as error:
            raise RunError(f"{self._path}: cannot be read: {error.strerror}") from error
        *lines, rest = (self._rest + new).split(b"\n")
        self._rest = rest[-LARGEST_PIECE:]
        return lines

    def close(self) -> None:
        """Let go of the log."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""

    def _read(self) -> bytes:
        return b"" if self._file is None else self._file.read(LARGEST_PIECE)

    def _goes_on_elsewhere(self) -> bool:
        """Whether the log was not open yet, was renamed or was emptied."""
        if self._file is None:
            return True
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False  # nginx has not begun the next one yet
        held = os.fstat(self._file.fileno())
        renamed = (now.st_dev, now.st_ino) != (held.st_dev, held.st_ino)
        return renamed or now.st_size < self._file.tell()

    def _open(self) -> None:
        self.close()
        with suppress(FileNotFoundError):
            self._file = self._path.open("rb", buffering=0)
            self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - self._back))
            self._back = LARGEST_LOG  # the next one is read from its beginning


@final
class Refusals:
    """Writes down whose key came with whose certificate.

    Args:
        log: nginx's log of calls.
        registry: The hub's.
        clock: The time, UTC.
    """

    def __init__(
        self,
        log: Path,
        registry: Registry,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._tail = LogTail(log, LOOK_BACK_BYTES)
        self._registry, self._since = registry, clock() - LOOK_BACK
        self._told: dict[tuple[str, str], float] = {}

    def look(self) -> None:
        """Tell the refusals since the last look, each pair once a minute."""
        for line in self._tail.lines():
            # most lines are of calls that were let through; those are not worth parsing
            if b'"foreign_node":"' in line and b'"foreign_node":""' not in line:
                with suppress(ValueError, KeyError, TypeError):
                    self._consider(json.loads(line))

    def close(self) -> None:
        """Let go of the log."""
        self._tail.close()

    def _consider(self, call: dict[str, object]) -> None:
        if call["status"] != REFUSED or self._is_old(str(call["time"])):
            return
        site, key = str(call["site"]), str(call["foreign_node"])
        owner = self._owner(key)
        now = time.monotonic()
        # a site's own key is refused for an instant when it is admitted or revoked
        if owner == site or now - self._told.get((site, owner), -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        self._told[site, owner] = now
        emit(HUB, "foreign_node_key", site=site, key_of=owner, address=str(call["address"]))

    def _is_old(self, moment: str) -> bool:
        return datetime.fromisoformat(moment) < self._since

    def _owner(self, key: str) -> str:
        for row in self._registry.rows(SiteRow):
            with suppress(FedsegError):
                if row.node_key and node_header_of(row.node_key) == key:
                    return row.name
        return NOBODY
