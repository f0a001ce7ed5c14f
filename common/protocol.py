"""Every record key that crosses the wire, in pack/unpack pairs.

A message holds at most two records: the arrays, as Flower's arrays in NumPy's own format
without pickle, and one JSON text of a dataclass from ``common.messages``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.errors import UpdateRefusedError
from common.messages import Failure
from common.study.typed import as_typed
from common.tensors import Weights

T = TypeVar("T")

ENROL = "query.enrol"
TRAIN = "train"
EVALUATE = "evaluate"
ALONE = "train.alone"

_ARRAYS = "weights"
_CONFIG = "fedseg"
_BODY = "body"
_FAILURE = "failure"

LARGEST_BODY_CHARACTERS = 20_000_000


def pack(value: Any, arrays: ArrayRecord | None = None) -> RecordDict:
    """Put a message's dataclass into records.

    Args:
        value: One of ``common.messages``; its field ``weights`` travels as arrays.
        arrays: Weights that were packed before, to be sent again without another copy.
    """
    weights = getattr(value, "weights", None)
    body = {
        f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != "weights"
    }
    records = RecordDict({_CONFIG: ConfigRecord({_BODY: json.dumps(body, allow_nan=True)})})
    if arrays is not None:
        records[_ARRAYS] = arrays
    elif weights is not None:
        records[_ARRAYS] = pack_weights(weights)
    return records


def plain(value: Any) -> dict[str, Any]:
    """Return a message's dataclass as nested dictionaries, lists and scalars."""
    return asdict(value)


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else _inside(value)


def _inside(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def pack_weights(weights: Weights) -> ArrayRecord:
    """Put named arrays into Flower's record."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in weights.items()})


def unpack(kind: type[T], records: RecordDict) -> T:
    """Read a message's dataclass back, checking every field's type.

    Raises:
        UpdateRefusedError: If the records are not those of ``kind``.
    """
    parsed = _parsed(_body(records))
    named = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if "weights" not in named:
        return _typed(kind, parsed)
    weights = unpack_weights(records)
    return _with_weights(kind, parsed, weights)


def _body(records: RecordDict) -> str:
    try:
        body = records.config_records[_CONFIG][_BODY]
    except KeyError:
        raise UpdateRefusedError("the answer lacks its record") from None
    if not isinstance(body, str) or len(body) > LARGEST_BODY_CHARACTERS:
        raise UpdateRefusedError("the answer's record is no text of a sensible size")
    return body


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UpdateRefusedError("the answer's record is not JSON") from None


def _typed(kind: type[T], plain: Any) -> T:
    value, problems = as_typed(kind, plain)
    if value is None:
        where, what = problems[0] if problems else ((), "is malformed")
        raise UpdateRefusedError(f"{'.'.join(map(str, where))[:80]}: {what[:200]}")
    return value


def _with_weights(kind: type[T], plain: Any, weights: Weights) -> T:
    from typing import get_type_hints

    hints = get_type_hints(kind)
    expected = {name for name in hints if name != "weights"}
    if not isinstance(plain, dict) or set(plain) != expected:
        raise UpdateRefusedError("the answer's record has other fields than expected")
    made: Any = kind
    value: T = made(
        **{name: _typed(hints[name], plain[name]) for name in expected}, weights=weights
    )
    return value


def unpack_weights(records: RecordDict) -> Weights:
    """Read named arrays back; NumPy's format, never pickle.

    Raises:
        UpdateRefusedError: If they are missing or cannot be read.
    """
    try:
        record = records.array_records[_ARRAYS]
        weights = {str(name): array.numpy() for name, array in record.items()}
    except KeyError:
        raise UpdateRefusedError("the answer has no arrays") from None
    except Exception as error:  # noqa: BLE001 - NumPy raises of many kinds on a stranger's bytes
        raise UpdateRefusedError(f"an array cannot be read: {type(error).__name__}") from None
    if not all(isinstance(array, np.ndarray) for array in weights.values()):
        raise UpdateRefusedError("an array cannot be read: it is an archive")
    return weights


def pack_failure(failure: Failure) -> RecordDict:
    """Put a failure into a record of its own, so that it cannot pass for an answer."""
    return RecordDict(
        {_FAILURE: ConfigRecord({"code": failure.code, "sentence": failure.sentence})}
    )


def unpack_failure(records: RecordDict) -> Failure | None:
    """Return the failure that a message carries, or None."""
    record = records.config_records.get(_FAILURE)
    if record is None:
        return None
    return Failure(
        code=str(record.get("code", ""))[:60], sentence=str(record.get("sentence", ""))[:300]
    )


def size_bytes(records: RecordDict) -> int:
    """Bytes of a message's arrays and texts, as they cross the wire."""
    arrays = sum(
        len(array.data) for r in records.array_records.values() for array in r.values()
    )
    texts = sum(
        len(v.encode())
        for r in records.config_records.values()
        for v in r.values()
        if isinstance(v, str)
    )
    return arrays + texts
