"""Every record key that crosses the wire, in pack/unpack pairs.

A message holds at most two records: the arrays, as safetensors files in Flower's arrays, and
one JSON text of a dataclass from ``common.messages`` (``common.bodies``).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.bodies import body_of, has_weights, value_of_body
from common.errors import IncompatibleWeightsError, UpdateRefusedError
from common.messages import Failure
from common.tensors import Weights, chunks_of, tensors_in

T = TypeVar("T")

ENROL = "query.enrol"
TRAIN = "train"
EVALUATE = "evaluate"
ALONE = "train.alone"
SHARE = "query.share"

_ARRAYS = "weights"
_CONFIG = "fedseg"
_BODY = "body"
_FAILURE = "failure"
_ALL = "all"
_FORMAT = "fedseg.safetensors.1"

PIECE_BYTES = 1 << 24


def pack(value: Any, arrays: ArrayRecord | None = None) -> RecordDict:
    """Put a message's dataclass into records.

    Args:
        value: One of ``common.messages``; its field ``weights`` travels as arrays.
        arrays: Weights that were packed before, to be sent again without another copy.
    """
    weights = getattr(value, "weights", None)
    records = RecordDict({_CONFIG: ConfigRecord({_BODY: body_of(value)})})
    if arrays is not None:
        records[_ARRAYS] = arrays
    elif weights is not None:
        records[_ARRAYS] = pack_weights(weights)
    return records


def plain(value: Any) -> dict[str, Any]:
    """Return a message's dataclass as nested dictionaries, lists and scalars."""
    return asdict(value)


def pack_weights(weights: Weights, kinds: Mapping[str, str] | None = None) -> ArrayRecord:
    """Put named arrays into Flower's record, one safetensors file for each kind.

    Flower asks the hub for every array of a record by itself; a network has hundreds, and at
    100 ms from the hub each costs 50 ms. A few large ones come in pieces of 5 MB.

    Args:
        weights: Arrays by name.
        kinds: Kind of each parameter; the kinds name the files. None for one file of all.
    """
    groups: dict[str, Weights] = {}
    for name, array in weights.items():
        kind = kinds[name] if kinds is not None else _ALL
        groups.setdefault(kind, {})[name] = np.asarray(array)
    return ArrayRecord({kind: _file(part) for kind, part in groups.items()})


def _file(weights: Weights) -> Array:
    data = b"".join(chunks_of(weights, PIECE_BYTES))
    return Array(dtype="uint8", shape=(len(data),), stype=_FORMAT, data=data)


def unpack(kind: type[T], records: RecordDict) -> T:
    """Read a message's dataclass back, checking every field's type.

    Raises:
        UpdateRefusedError: If the records are not those of ``kind``.
    """
    try:
        body = records.config_records[_CONFIG][_BODY]
    except KeyError:
        raise UpdateRefusedError("the answer lacks its record") from None
    weights = unpack_weights(records) if has_weights(kind) else None
    return value_of_body(kind, body, weights)


def unpack_weights(records: RecordDict) -> Weights:
    """Read named arrays back; safetensors, never pickle.

    Raises:
        UpdateRefusedError: If they are missing or cannot be read.
    """
    try:
        record = records.array_records[_ARRAYS]
    except KeyError:
        raise UpdateRefusedError("the answer has no arrays") from None
    weights: Weights = {}
    for array in record.values():
        if array.stype != _FORMAT:
            raise UpdateRefusedError("an array cannot be read: it is not of our format")
        try:
            found = tensors_in(np.frombuffer(bytearray(array.data), np.uint8))
        except IncompatibleWeightsError as error:
            raise UpdateRefusedError(f"an array cannot be read: {error}") from None
        if found.keys() & weights.keys():
            raise UpdateRefusedError("an array cannot be read: it is there twice")
        weights |= found
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
