"""Arrays as they cross the worker's socket, against the safetensors library and each other."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from common.bodies import digest_of_job
from common.errors import IncompatibleWeightsError
from common.tensors import chunks_of, digest_of_weights, file_bytes_of, tensors_in
from tests.support.jobs import jobs_of
from tests.support.strategies import checked, named_weights

JOB = jobs_of().train(1)


def joined(weights, size):
    return b"".join(bytes(chunk) for chunk in chunks_of(weights, size))


def in_memory(data):
    return tensors_in(np.frombuffer(data, np.uint8))


@checked
@given(weights=named_weights(), size=st.integers(1, 50))
def test_any_arrays_come_back_whatever_the_size_of_the_pieces(weights, size):
    chunks = [bytes(chunk) for chunk in chunks_of(weights, size)]

    found = in_memory(b"".join(chunks))

    assert all(0 < len(chunk) <= size for chunk in chunks)
    assert sum(map(len, chunks)) == file_bytes_of(weights)
    assert list(found) == list(weights)
    for name, array in weights.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@checked
@given(weights=named_weights())
def test_the_bytes_are_a_file_that_the_library_reads(weights):
    found = safetensors.numpy.load(joined(weights, 1000))

    assert {n: a.tobytes() for n, a in found.items()} == {
        n: a.tobytes() for n, a in weights.items()
    }


@checked
@given(data=st.binary(max_size=120))
def test_bytes_of_a_stranger_are_read_or_refused(data):
    try:
        found = in_memory(data)
    except IncompatibleWeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


@checked
@given(weights=named_weights(), cut=st.integers(1, 30))
def test_bytes_cut_short_are_refused(weights, cut):
    with pytest.raises(IncompatibleWeightsError):
        in_memory(joined(weights, 100)[:-cut])


def test_an_array_of_a_type_that_no_file_holds_is_refused():
    with pytest.raises(IncompatibleWeightsError, match="complex64"):
        list(chunks_of({"a": np.ones(3, np.complex64)}, 10))


@checked
@given(weights=named_weights(), order=st.randoms(use_true_random=False))
def test_the_digest_is_of_names_types_shapes_and_bits_not_of_their_order(weights, order):
    names = list(weights)
    order.shuffle(names)
    shuffled = {name: weights[name].copy() for name in names}
    before = digest_of_weights(weights)

    assert digest_of_weights(shuffled) == before
    for name, array in weights.items():
        assert digest_of_weights({**weights, name + "x": array}) != before
        assert digest_of_weights({**weights, name: array[None]}) != before
        if array.size:
            changed = array.copy()
            changed.reshape(-1).view(np.uint8)[0] ^= 1
            assert digest_of_weights({**weights, name: changed}) != before


def test_a_job_has_one_digest_whatever_the_order_of_its_fields():
    from dataclasses import replace

    kinds = dict(reversed(JOB.kinds.items()))
    weights = dict(reversed(JOB.weights.items()))

    assert digest_of_job("train", replace(JOB, kinds=kinds, weights=weights)) == digest_of_job(
        "train", JOB
    )
    assert digest_of_job("evaluate", JOB) != digest_of_job("train", JOB)
    assert digest_of_job("train", replace(JOB, validate=False)) != digest_of_job("train", JOB)
