"""Safetensors files, read and written one tensor at a time by plain reads.

The ``safetensors`` library maps a file or copies it whole; the hub folds many updates and must
stay within a few times one model, so this reads only what is asked. The format is the
library's: 8 bytes of header length, a JSON header, then the tensors. A golden test holds both
ways against the library.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Self, final

import numpy as np
from numpy.typing import NDArray

from common.errors import DamagedError, IncompatibleWeightsError
from common.files import writing
from common.sealed import MISSING

Array = NDArray[Any]
Weights = dict[str, Array]

CHANGED = "is not what was written there: its checksum does not fit"
LARGEST_HEADER_BYTES = 10_000_000
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Slot:
    """Where one tensor stands: type, shape, and bytes from the start of the data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def _bytes_of(array: Array) -> memoryview:
    """Return a contiguous array's memory as bytes, without a copy."""
    return array.reshape(-1).view(np.uint8).data


@final
class TensorFile:
    """One open safetensors file.

    Attributes:
        slots: Every tensor by name.
        metadata: The header's texts.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        try:
            size = os.fstat(self._file.fileno()).st_size
            length = int.from_bytes(self._file.read(8), "little")
            if not 2 <= length <= min(LARGEST_HEADER_BYTES, size - 8):  # noqa: PLR2004
                raise IncompatibleWeightsError(f"{path.name}: is not a safetensors file")
            self.slots, self.metadata = _read_header(self._file.read(length), path.name)
            self._start = 8 + length
            if sum(s.end - s.begin for s in self.slots.values()) != size - self._start:
                raise IncompatibleWeightsError(f"{path.name}: is cut short or has spare bytes")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, name: str) -> Array:
        """Read one tensor into new memory."""
        slot = self.slots[name]
        array = np.empty(slot.shape, slot.dtype)
        self._file.seek(self._start + slot.begin)
        if self._file.readinto(_bytes_of(array)) != slot.end - slot.begin:
            raise IncompatibleWeightsError(f"{name}: the file ends within this tensor")
        return array

    def read_rows(self, name: str, first: int, last: int) -> Array:
        """Read elements ``first`` to ``last`` of one tensor, flattened."""
        slot = self.slots[name]
        self._file.seek(self._start + slot.begin + first * slot.dtype.itemsize)
        array = np.empty(last - first, slot.dtype)
        if self._file.readinto(_bytes_of(array)) != array.nbytes:
            raise IncompatibleWeightsError(f"{name}: the file ends within this tensor")
        return array


def _read_header(text: bytes, name: str) -> tuple[dict[str, Slot], dict[str, str]]:
    """Check a header before anything is allocated for it."""
    try:
        header = json.loads(text)
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        slots = {
            str(key): Slot(
                DTYPES[item["dtype"]],
                tuple(int(n) for n in item["shape"]),
                int(item["data_offsets"][0]),
                int(item["data_offsets"][1]),
            )
            for key, item in header.items()
        }
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        raise IncompatibleWeightsError(f"{name}: its header cannot be read") from error
    position = 0
    for key, slot in sorted(slots.items(), key=lambda item: (item[1].begin, item[1].end)):
        fits = slot.end - slot.begin == prod(slot.shape) * slot.dtype.itemsize
        if slot.begin != position or not fits or any(n < 0 for n in slot.shape):
            raise IncompatibleWeightsError(f"{name}: {key}: offsets and shape disagree")
        position = slot.end
    return slots, metadata


def _header(
    slots: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape) in slots.items():
        size = prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@final
class TensorWriter:
    """Writes tensors in an announced order, holding none of them."""

    def __init__(
        self,
        file: IO[bytes],
        slots: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
        metadata: Mapping[str, str],
    ) -> None:
        self._file = file
        self._file.write(_header(slots, metadata))

    def write(self, array: Array) -> None:
        """Append the next tensor, or the next part of it."""
        self._file.write(_bytes_of(np.ascontiguousarray(array)))


def write_tensors(
    path: Path, weights: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: Where it appears.
        weights: Arrays by name, written in this order.
        metadata: Texts for the header.
    """
    with writing(path) as file:
        slots = {name: (array.dtype, array.shape) for name, array in weights.items()}
        writer = TensorWriter(file, slots, metadata)
        for array in weights.values():
            writer.write(array)


def read_tensors(path: Path, names: Iterable[str] | None = None) -> Weights:
    """Read all tensors of a file, or the named ones."""
    with TensorFile(path) as file:
        return {name: file.read(name) for name in (file.slots if names is None else names)}


def chunks_of(weights: Mapping[str, Array], size: int) -> Iterator[memoryview]:
    """Yield the bytes of a safetensors file of these arrays, without a copy of them.

    Args:
        weights: Arrays by name; C-contiguous ones are not copied.
        size: Most bytes in one chunk.

    Raises:
        IncompatibleWeightsError: If an array's type is none that a file may hold.
    """
    for array in weights.values():
        if array.dtype not in NAMES:
            raise IncompatibleWeightsError(f"an array is of type {array.dtype}")
    slots = {name: (array.dtype, array.shape) for name, array in weights.items()}
    yield from _cut(memoryview(_header(slots, {})), size)
    for array in weights.values():
        yield from _cut(_bytes_of(np.ascontiguousarray(array)), size)


def _cut(whole: memoryview, size: int) -> Iterator[memoryview]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def file_bytes_of(weights: Mapping[str, Array]) -> int:
    """Return the length of the file that :func:`chunks_of` yields."""
    slots = {name: (array.dtype, array.shape) for name, array in weights.items()}
    return len(_header(slots, {})) + sum(array.nbytes for array in weights.values())


def tensors_in(buffer: NDArray[np.uint8]) -> Weights:
    """Return the arrays of a safetensors file in memory, as views of it.

    Raises:
        IncompatibleWeightsError: If it is none.
    """
    length = int.from_bytes(buffer[:8].tobytes(), "little")
    if not 2 <= length <= min(LARGEST_HEADER_BYTES, len(buffer) - 8):  # noqa: PLR2004
        raise IncompatibleWeightsError("the arrays are not a safetensors file")
    slots, _ = _read_header(buffer[8 : 8 + length].tobytes(), "the arrays")
    data = buffer[8 + length :]
    if sum(s.end - s.begin for s in slots.values()) != len(data):
        raise IncompatibleWeightsError("the arrays are cut short or have spare bytes")
    return {
        name: np.frombuffer(data[s.begin : s.end], s.dtype).reshape(s.shape)
        for name, s in slots.items()
    }


def digest_of_weights(weights: Mapping[str, Array]) -> str:
    """Return a SHA-256 of arrays, their names, types and shapes, whatever their order."""
    found = hashlib.sha256()
    for name, array in sorted(weights.items()):
        about = [name, str(array.dtype), list(array.shape)]
        found.update(json.dumps(about).encode("ascii") + b"\n")
        found.update(_bytes_of(np.ascontiguousarray(array)))
    return found.hexdigest()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(path: Path, digest: str) -> None:
    """Hold a file against the checksum that another file has of it.

    Raises:
        DamagedError: If it is missing or is not what was written there.
    """
    if not path.exists():
        raise DamagedError(path, MISSING)
    if digest_of(path) != digest:
        raise DamagedError(path, CHANGED)
