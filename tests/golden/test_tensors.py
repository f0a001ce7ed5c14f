import io
import json
import pickle  # noqa: TID251 - to show that it is refused

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings

from common.errors import IncompatibleWeightsError
from common.tensors import (
    LARGEST_HEADER_BYTES,
    TensorFile,
    TensorWriter,
    read_tensors,
    write_tensors,
)
from tests.support.strategies import checked, named_weights

EVERY_TYPE = ["<f8", "<f4", "<f2", "<i8", "<i4", "u1"]


def sample():
    rng = np.random.default_rng(0)
    return {
        **{dtype: (rng.normal(size=(2, 3)) * 9).astype(dtype) for dtype in EVERY_TYPE},
        "scalar": np.array(1.5, np.float32),
        "empty": np.empty((0, 3), np.float32),
        "turned": rng.normal(size=(4, 5)).astype(np.float32).T,
        "with spaces and ü": np.arange(3.0),
    }


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_the_library_reads_what_we_write(tmp_path):
    path = tmp_path / "w.safetensors"

    write_tensors(path, sample(), {"kinds": "{}"})

    found = safetensors.numpy.load_file(path)
    assert_same({name: found[name] for name in sample()}, sample())
    with safetensors.safe_open(path, "numpy") as file:
        assert file.metadata() == {"kinds": "{}"}


def test_we_read_what_the_library_writes(tmp_path):
    path = tmp_path / "w.safetensors"
    contiguous = {
        name: np.ascontiguousarray(a).reshape(a.shape) for name, a in sample().items()
    }
    safetensors.numpy.save_file(contiguous, path, metadata={"round": "3"})

    found = read_tensors(path, sample())

    assert_same(found, sample())
    with TensorFile(path) as file:
        assert file.metadata == {"round": "3"}


@settings(checked, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=named_weights())
def test_any_weights_come_back_bit_for_bit(tmp_path, weights):
    path = tmp_path / "w.safetensors"

    write_tensors(path, weights, {})

    found = read_tensors(path)
    assert {n: a.tobytes() for n, a in found.items()} == {
        n: a.tobytes() for n, a in weights.items()
    }
    library = safetensors.numpy.load_file(path)
    assert {n: a.tobytes() for n, a in library.items()} == {
        n: a.tobytes() for n, a in found.items()
    }


def test_only_the_named_tensors_are_read_and_they_can_be_written_to(tmp_path):
    write_tensors(tmp_path / "w", sample(), {})

    found = read_tensors(tmp_path / "w", ["scalar"])

    assert list(found) == ["scalar"]
    found["scalar"] += 1


@pytest.mark.parametrize(("first", "last"), [(0, 6), (2, 5), (5, 6), (3, 3)])
def test_rows_are_a_part_of_the_flattened_tensor(tmp_path, first, last):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_tensors(tmp_path / "w", {"before": np.ones(7), "w": array}, {})

    with TensorFile(tmp_path / "w") as file:
        rows = file.read_rows("w", first, last)

    np.testing.assert_array_equal(rows, array.ravel()[first:last], strict=True)


def test_a_tensor_can_be_written_in_parts(tmp_path):
    array = np.arange(10, dtype=np.float32)
    with (tmp_path / "w").open("wb") as file:
        writer = TensorWriter(file, {"w": (array.dtype, (2, 5))}, {})
        writer.write(array[:4])
        writer.write(array[4:])

    np.testing.assert_array_equal(read_tensors(tmp_path / "w")["w"], array.reshape(2, 5))


def raw(header, data=b"\0" * 8, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def slot(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def numpy_archive():
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


FORGED = {
    "empty": b"",
    "shorter than a length": b"\0\0\0",
    "header longer than the file": raw({"w": slot()}, length=1000),
    "huge header": raw({"w": slot()}, length=2**63),
    "header over the limit": raw(b" " * (LARGEST_HEADER_BYTES + 1)),
    "header of nothing": raw(b""),
    "header that is no json": raw(b"not json"),
    "header that is no text": raw(b"\xff\xfe\xfd\xfc"),
    "header that is a list": raw([1]),
    "header nested deeply": raw(b"[" * 100_000),
    "metadata that is a number": raw({"__metadata__": 1}),
    "truncated": raw({"w": slot()}, b"\0" * 7),
    "spare bytes": raw({"w": slot()}, b"\0" * 9),
    "overlapping": raw({"v": slot(), "w": slot(4, 12)}, b"\0" * 16),
    "same place twice": raw({"v": slot(), "w": slot()}, b"\0" * 16),
    "a hole": raw({"v": slot(), "w": slot(12, 20)}, b"\0" * 16),
    "not at the start": raw({"w": slot(4, 12)}, b"\0" * 8),
    "backwards": raw({"w": slot(8, 0)}),
    "shape larger than its bytes": raw({"w": slot(shape=(10**15,))}),
    "shape that overflows": raw({"w": slot(shape=(2**32, 2**32))}),
    "shape of two negatives": raw({"w": slot(shape=(-1, -2))}),
    "shape of infinity": raw(json.dumps({"w": slot()}).replace("[2]", "[1e999]").encode()),
    "shape of a list": raw({"w": slot(shape=([2],))}),
    "unknown type": raw({"w": slot(dtype="C64")}),
    "no offsets": raw({"w": {"dtype": "F32", "shape": [2]}}),
    "one offset": raw({"w": {**slot(), "data_offsets": [0]}}),
    "name twice": raw(b'{"w":%b,"w":%b}' % ((json.dumps(slot(0, 4, (1,))).encode(),) * 2)),
    "pickle": pickle.dumps({"w": np.ones(3)}),
    "numpy archive": numpy_archive(),
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_a_forged_file_is_refused_before_anything_is_allocated(tmp_path, content, monkeypatch):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    monkeypatch.setattr(np, "empty", None)

    with pytest.raises(IncompatibleWeightsError, match=r"^w\.safetensors: "):
        read_tensors(path)


def test_a_file_cut_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"w": np.ones(1000)}, {})

    with TensorFile(path) as file:
        with path.open("r+b") as other:
            other.truncate(200)
        with pytest.raises(
            IncompatibleWeightsError, match="w: the file ends within this tensor"
        ):
            file.read("w")
        with pytest.raises(
            IncompatibleWeightsError, match="w: the file ends within this tensor"
        ):
            file.read_rows("w", 990, 1000)


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {"w": np.ones(3)}, {})

    with pytest.raises(KeyError):
        write_tensors(path, {"w": np.ones(3, complex)}, {})

    np.testing.assert_array_equal(read_tensors(path)["w"], np.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
