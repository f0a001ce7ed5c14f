"""Append-only logs of which changes are found: a chain of hashes, its head signed.

One JSON object a line: ``n`` (counted from 1), ``time`` (UTC), ``event``, the event's own
fields, and ``before``, the SHA-256 of the line before. A record ``head`` holds how many records
come before it, the hash of the last of them and an Ed25519 signature; the newest one is also
kept in ``<name>.head`` beside the log, and may be given to the other party.

What :func:`verify` finds: any record changed, removed, put in, repeated or moved before the
last signed head; a head that another key signed; a log shorter than the head beside it, or
than the head that the other party has. Without a signed head it finds a change that leaves the
hashes as they were, but not that of the last record, nor that records are missing at the end.

What nothing here can find: changes behind the newest of these heads by someone who also makes
the hashes anew, since nobody has signed those records yet; and a log cut back to an older head
by someone who puts that older head in the file beside it, unless the other party has a newer
one. Whoever holds the key can make a whole new log; only the other party's head speaks against
that one.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from common.audit_chain import (
    FIRST,
    HEAD,
    RESERVED,
    Finding,
    Head,
    Record,
    check_chain,
    hash_of,
    head_of,
    is_json,
    line_of,
    parse,
)
from common.errors import AuditError, InputError, RunError, StorageError
from common.events import fields_of
from common.files import sync_folder, writing

__all__ = [
    "AuditEvents",
    "AuditLog",
    "Finding",
    "Head",
    "Record",
    "audit_events",
    "head_path",
    "public_key_of",
    "records_of",
    "signing_key",
    "verify",
]

CUT = "cut"
LARGEST_LINE_BYTES = 1_000_000
TAIL_BYTES = 4096

Clock = Callable[[], datetime]


def now_utc() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@final
class AuditLog:
    """One log. Several processes may write it at once, each with an object of its own.

    Opening it cuts off a last line that a crash left half written, puts that aside in
    ``<name>.cut-<n>`` and records it as an event ``cut``; so does the next append.

    Args:
        path: The file; made if it is not there, for whom the process's umask allows.
        key: Signs heads; a process that has none writes records alone.
        clock: Tells the time.

    Raises:
        AuditError: If the last record cannot be read though it is whole.
        RunError: If the file cannot be opened.
    """

    def __init__(
        self, path: Path, *, key: Ed25519PrivateKey | None = None, clock: Clock = now_utc
    ) -> None:
        self.path, self._key, self._clock = path, key, clock
        with self._locked():
            pass

    def append(self, event: str, **fields: Any) -> Record:
        """Write one record and flush it to the disk.

        Args:
            event: Its name.
            **fields: What JSON holds as it is; NaN and infinity are refused.

        Returns:
            The record.

        Raises:
            AuditError: If a field is reserved or cannot be held.
            StorageError: If the disk is full; then the log is as it was.
        """
        if event == HEAD:
            raise AuditError(f"{self.path}: a head is written by sign_head alone")
        for name, value in fields.items():
            if name in RESERVED or not is_json(value):
                what = "is reserved" if name in RESERVED else "is not what JSON can hold"
                raise AuditError(f"{self.path}: {event}: field {name} {what}")
        with self._locked() as (file, last, before):
            return self._write(file, self._next(event, fields, last, before))

    def sign_head(self) -> Head:
        """Sign how far the log goes, in the log and beside it.

        Raises:
            AuditError: If the process has no key, or the log was changed by other hands: no
                signature may cover that up.
        """
        if self._key is None:
            raise AuditError(f"{self.path}: this process has no key to sign with")
        with self._locked() as (file, last, before):
            pinned = _pinned(self.path, None)
            for found in check_chain(_lines_of(file), pinned, self._key.public_key()):
                where = f"{self.path}, line {found.line}"
                raise AuditError(f"{where}: {found.what}; not signed, verify the log")
            count = 0 if last is None else int(last["n"])
            head = Head(count=count, hash=before, time=_text(self._clock()), signature="")
            head = replace(head, signature=self._key.sign(head.signed_bytes()).hex())
            self._write(file, head.record())
            _keep(self.path, head)
        return head

    def head(self) -> Head | None:
        """Return the newest signed head, or None."""
        return kept_head(self.path)

    # --- under the lock ----------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[tuple[IO[bytes], Record | None, str]]:
        """Lock the log, mend its end, and yield it with its last record and that one's hash."""
        is_new = not self.path.exists()
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o660)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be opened: {error.strerror}") from error
        with os.fdopen(handle, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_new:
                sync_folder(self.path.parent)
            line, torn = _end(file)
            last = parse(line) if line else None
            if line and last is None:
                raise AuditError(f"{self.path}: its last record cannot be read; verify the log")
            if last is not None:
                _catch_up(self.path, last)
            if torn:
                last = self._cut(file, torn, last, hash_of(line) if line else FIRST)
                line = line_of(last)
            yield file, last, hash_of(line) if line else FIRST

    def _cut(self, file: IO[bytes], torn: bytes, last: Record | None, before: str) -> Record:
        side = self.path.with_name(
            f"{self.path.name}.cut-{1 if last is None else last['n'] + 1}"
        )
        with writing(side) as copy:
            copy.write(torn)
        file.truncate(file.seek(0, os.SEEK_END) - len(torn))
        digest = hashlib.sha256(torn).hexdigest()
        fields = {"bytes": len(torn), "sha256": digest, "file": side.name}
        return self._write(file, self._next(CUT, fields, last, before))

    def _next(self, event: str, fields: Record, last: Record | None, before: str) -> Record:
        n = 1 if last is None else int(last["n"]) + 1
        first: Record = {"n": n, "time": _text(self._clock()), "event": event}
        return {**first, **fields, "before": before}

    def _write(self, file: IO[bytes], record: Record) -> Record:
        line = line_of(record)
        if len(line) > LARGEST_LINE_BYTES:
            raise AuditError(f"{self.path}: a record of {len(line)} bytes is too long to keep")
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) != len(line):
                raise OSError(0, "the disk is full")
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(size)
            what = f"cannot be written: {error.strerror}; nothing was added"
            raise StorageError(f"{self.path}: {what}") from error
        return record


def verify(
    path: Path, public_key: Ed25519PublicKey | None, expected: Head | None = None
) -> list[Finding]:
    """Find what is wrong with a log; the module says what can be found and what cannot.

    Args:
        path: The log; its head is looked for beside it.
        public_key: Of whoever writes it; None leaves signatures unread.
        expected: Newest head that the other party was given.

    Returns:
        In the order of their lines; empty for a log in order.

    Raises:
        RunError: If the log cannot be read.
    """
    lines, pinned = _read(path), _pinned(path, expected)
    found = check_chain(lines, pinned, public_key)
    holds_head = any((parse(line) or {}).get("event") == HEAD for line in lines)
    if head_path(path).exists() and kept_head(path) is None:
        found.insert(0, Finding(line=0, what="the head beside the log cannot be read"))
    elif holds_head and not pinned:
        what = "the head beside the log is missing; whether the log was cut cannot be told"
        found.insert(0, Finding(line=0, what=what))
    if public_key is not None and lines and not holds_head and not pinned:
        found.append(Finding(line=len(lines), what="nothing up to here was ever signed"))
    return found


def records_of(path: Path, public_key: Ed25519PublicKey | None = None) -> list[Record]:
    """Return the records of a log, none if there is no log yet.

    A last line that is only half written is left out: whoever wrote it was never told that it
    is in the log.

    Raises:
        AuditError: If the log was changed, as far as :func:`verify` would see it.
        RunError: If it cannot be read.
    """
    lines = _read(path) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    for found in check_chain(lines, _pinned(path, None), public_key):
        where = f"{path}, line {found.line}"
        raise AuditError(f"{where}: {found.what}; find out who changed it, verify the log")
    return [record for line in lines if (record := parse(line)) is not None]


def public_key_of(text: str) -> Ed25519PublicKey:
    """Read a public key of 64 hexadecimal digits.

    Raises:
        AuditError: If it is none.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError as error:
        raise AuditError("the audit key is not 64 hexadecimal digits") from error


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Read the key that signs heads.

    Args:
        path: PEM, PKCS #8, without a passphrase.

    Raises:
        InputError: If it cannot be read or is no Ed25519 key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read; restore it from the backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path}: is no Ed25519 key; restore it from the backup")
    return key


def audit_events(logger: logging.Logger, path: Path, events: frozenset[str]) -> None:
    """Write a logger's events that matter into one log from now on, and into no other.

    Raises:
        AuditError: If the log was changed.
        RunError: If it cannot be written.
    """
    for handler in [h for h in logger.handlers if isinstance(h, AuditEvents)]:
        logger.removeHandler(handler)
    logger.setLevel(logging.INFO)
    logger.addHandler(AuditEvents(AuditLog(path), events))


def head_path(path: Path) -> Path:
    """Return where the newest head is kept beside a log."""
    return path.with_name(f"{path.name}.head")


def kept_head(path: Path) -> Head | None:
    """Return the head beside a log; None where there is none, or none of the right form."""
    try:
        record = parse(head_path(path).read_bytes())
    except FileNotFoundError:
        return None
    return None if record is None else head_of(record)


def _pinned(path: Path, expected: Head | None) -> dict[str, Head]:
    heads = {"the head beside the log": kept_head(path), "the other party's head": expected}
    return {name: head for name, head in heads.items() if head is not None}


def _keep(path: Path, head: Head) -> None:
    with writing(head_path(path)) as file:
        file.write(line_of(head.record()))


def _catch_up(path: Path, last: Record) -> None:
    """Keep a head beside the log that a crash kept from getting there."""
    head = head_of(last) if last["event"] == HEAD else None
    kept = kept_head(path) if head is not None else None
    if head is not None and (kept is None or kept.count < head.count):
        _keep(path, head)


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return _lines_of(file)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error


def _lines_of(file: IO[bytes]) -> list[bytes]:
    file.seek(0)
    *whole, rest = file.read().split(b"\n")
    lines = [line + b"\n" for line in whole]
    return [*lines, rest] if rest else lines


def _end(file: IO[bytes]) -> tuple[bytes, bytes]:
    """Return a log's last whole line and what stands behind it."""
    size, reach = file.seek(0, os.SEEK_END), TAIL_BYTES
    while True:
        start = max(0, size - reach)
        file.seek(start)
        tail = file.read(size - start)
        newline = tail.rfind(b"\n")
        first = tail.rfind(b"\n", 0, max(newline, 0))
        if start == 0 or first >= 0:
            return tail[first + 1 : newline + 1], tail[newline + 1 :]
        reach *= 8


@final
class AuditEvents(logging.Handler):
    """Writes the events that matter to an audit log, as they are emitted.

    Unlike other handlers it does not swallow what goes wrong: what cannot be written down must
    not happen.

    Args:
        log: Where to.
        events: Names of the events that matter.
    """

    def __init__(self, log: AuditLog, events: frozenset[str]) -> None:
        super().__init__()
        self._log, self._events = log, events

    def emit(self, record: logging.LogRecord) -> None:
        """Write an event down, if it is one of those that matter.

        Raises:
            AuditError: If a field cannot be held.
            RunError: If the disk is full.
        """
        event = record.getMessage()
        if event in self._events:
            fields = {k: v for k, v in fields_of(record).items() if k not in RESERVED}
            self._log.append(
                event, **json.loads(json.dumps(fields, default=str), parse_constant=str)
            )
