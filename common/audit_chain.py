"""Records of an audit log, their chain of hashes and signed heads: bytes in, findings out.

What is written when and how is ``common.audit``'s; nothing here opens a file.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

HEAD = "head"
FIRST = "0" * 64  # ``before`` of the first record
RESERVED = frozenset({"n", "time", "event", "before"})
SIGNED_AS = b"fedseg audit head 1\n"  # purpose and version, so that no other signature passes
_HASH = re.compile(r"[0-9a-f]{64}")

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with a log.

    Attributes:
        line: Where, counted from 1; 0 for what lies beside the log.
        what: In words.
    """

    line: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """A signed statement of how far a log goes.

    Attributes:
        count: Records before the head.
        hash: SHA-256 of the last of them, hexadecimal.
        time: When it was signed, as in the log.
        signature: Ed25519, hexadecimal.
    """

    count: int
    hash: str
    time: str
    signature: str

    def record(self) -> Record:
        """Return the head as it stands in the log."""
        return {
            "n": self.count + 1,
            "time": self.time,
            "event": HEAD,
            "count": self.count,
            "hash": self.hash,
            "signature": self.signature,
            "before": self.hash,
        }

    def signed_bytes(self) -> bytes:
        """Return what the signature is of: the whole record but itself."""
        unsigned = {k: v for k, v in self.record().items() if k != "signature"}
        text = json.dumps(unsigned, sort_keys=True, separators=(",", ":"))
        return SIGNED_AS + text.encode("ascii")

    def is_signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether this key signed it."""
        try:
            key.verify(bytes.fromhex(self.signature), self.signed_bytes())
        except (InvalidSignature, ValueError):
            return False
        return True


def head_of(record: Mapping[str, Any]) -> Head | None:
    """Read a head record, or return None if it is not one of the right form."""
    count, digest, time, signature = (
        record.get(key) for key in ("count", "hash", "time", "signature")
    )
    if type(count) is not int or not isinstance(digest, str):
        return None
    head = Head(count=count, hash=digest, time=str(time), signature=str(signature))
    return head if head.record() == record else None


def line_of(record: Record) -> bytes:
    """Return the one line that stands for a record."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def hash_of(line: bytes) -> str:
    """Return what the next record holds of a line, its newline included."""
    return hashlib.sha256(line).hexdigest()


def is_json(value: Any) -> bool:
    """Whether JSON holds a value as it is: no NaN, no infinity, only text for keys."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_json(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def parse(line: bytes) -> Record | None:
    """Read one line, or return None if no log would have written it so."""
    try:
        record = json.loads(line)
        if line_of(record) != line or not record.keys() >= RESERVED:
            return None
    except (ValueError, AttributeError, RecursionError):
        return None
    texts = [record[key] for key in ("time", "event", "before")]
    if type(record["n"]) is not int or not all(isinstance(text, str) for text in texts):
        return None
    return record if _HASH.fullmatch(record["before"]) else None


def check_chain(
    lines: Sequence[bytes], pinned: Mapping[str, Head], key: Ed25519PublicKey | None
) -> list[Finding]:
    """Find what is wrong with the lines of a log, in their order.

    Args:
        lines: Each with its newline.
        pinned: Heads that the log must hold, by what to call them.
        key: Signs heads; None leaves signatures unread.
    """
    records = [parse(line) for line in lines]
    heads = list(_wrong_heads(records, key))
    order = [*_put_in(lines, records), *_wrong_numbers(records)]
    apart = {f.line for f in (*heads, *order)}
    found = [
        *(Finding(line=i, what="is not a record") for i, r in enumerate(records, 1) if not r),
        *heads,
        *order,
        *_wrong_links(lines, records, apart),
        *_wrong_pins(lines, pinned, key),
    ]
    return sorted(found, key=lambda finding: finding.line)


def _wrong_heads(
    records: Sequence[Record | None], key: Ed25519PublicKey | None
) -> Iterator[Finding]:
    for line, record in enumerate(records, 1):
        if record is None or record["event"] != HEAD:
            continue
        head = head_of(record)
        if head is None:
            yield Finding(line=line, what="is a head that contradicts itself")
        elif key is not None and not head.is_signed_by(key):
            yield Finding(line=line, what="is a head that this key did not sign")


def _wrong_numbers(records: Sequence[Record | None]) -> Iterator[Finding]:
    """Find gaps, repeats and swaps; one changed number is one finding, not two."""
    previous = 0
    for i, record in enumerate(records):
        found = previous + 1 if record is None else int(record["n"])
        if found != previous + 1:
            what = f"holds record {found} where {previous + 1} belongs"
            yield Finding(
                line=i + 1, what=f"{what}: records are missing, repeated, moved or put in"
            )
            after = records[i + 1] if i + 1 < len(records) else None
            goes_on = after is not None and after["n"] == found + 1
            found = found if goes_on else previous + 1
        previous = found


def _put_in(lines: Sequence[bytes], records: Sequence[Record | None]) -> Iterator[Finding]:
    """Find records that the next one passes over, to follow from the one before them."""
    hashes = [FIRST, *map(hash_of, lines)]
    for i, record in enumerate(records[1:], 1):
        if record is not None and record["before"] == hashes[i - 1] != hashes[i]:
            yield Finding(line=i, what="was put in: the next record does not follow from it")


def _wrong_links(
    lines: Sequence[bytes], records: Sequence[Record | None], apart: set[int]
) -> Iterator[Finding]:
    """Find records that are not those which the next ones hold the hash of."""
    broken = [
        record is not None and record["before"] != (hash_of(lines[i - 1]) if i else FIRST)
        for i, record in enumerate(records)
    ]
    blamed: set[int] = set()
    for i, is_broken in enumerate(broken):
        known = records[i - 1] is None if i else False
        if not is_broken or known or i + 1 in apart:
            continue
        # where the record's own hash does not fit the next one either, it is the changed one
        itself = not i or (i + 1 < len(broken) and broken[i + 1])
        line = i + 1 if itself else i
        if line not in blamed:
            blamed.add(line)
            yield Finding(line=line, what="was changed: the hashes around it do not fit")


def _wrong_pins(
    lines: Sequence[bytes], pinned: Mapping[str, Head], key: Ed25519PublicKey | None
) -> Iterator[Finding]:
    for name, head in pinned.items():
        if key is not None and not head.is_signed_by(key):
            yield Finding(line=0, what=f"{name} is not signed by this key")
        elif len(lines) <= head.count:
            what = f"is missing, and more may be: {name} comes after {head.count} records"
            yield Finding(line=len(lines) + 1, what=what)
        elif lines[head.count] != line_of(head.record()):
            yield Finding(line=head.count + 1, what=f"is not {name}")
