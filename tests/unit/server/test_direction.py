"""Updates that go against the others of their modality."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.tensors import write_tensors
from server import folding
from server.direction import AGAINST, against_the_others, cosine_with, products
from tests.support import studies

TABLE = studies.table(w=("shared", (2, 3)), n=("modality:ct", (2,)), v=("shared", (5,)))
RNG = np.random.default_rng(5)
BEFORE = {name: RNG.normal(size=p.shape).astype(np.float32) for name, p in TABLE.items()}


@pytest.fixture
def files(tmp_path):
    """Write each site's weights: those before and a change times a factor."""

    def write(**changes):
        found = {}
        for site, change in changes.items():
            found[site] = tmp_path / f"{site}.safetensors"
            write_tensors(found[site], {n: BEFORE[n] + change[n] for n in BEFORE}, {})
        before = tmp_path / "before.safetensors"
        write_tensors(before, BEFORE, {})
        return found, before

    return write


def change(factor=1.0, seed=1):
    rng = np.random.default_rng(seed)
    return {
        n: np.float32(factor) * rng.normal(size=p.shape).astype(np.float32)
        for n, p in TABLE.items()
    }


def test_the_inner_products_are_those_of_the_shared_changes(files, monkeypatch):
    monkeypatch.setattr("server.direction.PIECE", 4)  # more than one piece a tensor
    changes = {"a": change(seed=1), "b": change(seed=2), "c": change(-3.0, seed=1)}
    written, before = files(**changes)
    flat = np.stack(
        [np.concatenate([c["w"].ravel(), c["v"].ravel()]) for c in changes.values()]
    )
    np.testing.assert_allclose(products(written, TABLE, before), flat @ flat.T, rtol=1e-5)


def test_a_flipped_change_among_peers_is_found_and_nobody_else(files):
    written, before = files(a=change(), b=change(0.5), c=change(1.2), d=change(-1.0))
    modalities = dict.fromkeys("abcd", ("ct",))
    assert against_the_others(written, modalities, TABLE, before) == {"d": pytest.approx(-1)}


@pytest.mark.parametrize(
    "modalities",
    [
        {"a": ("ct",), "b": ("ct",), "c": ("ct",), "d": ("mr",)},  # alone with its modality
        {"a": ("mr",), "b": ("ct",), "c": ("mr",), "d": ("ct",)},  # which of two is wrong?
    ],
)
def test_without_two_peers_nobody_is_judged(files, modalities):
    written, before = files(a=change(), b=change(), c=change(), d=change(-1.0))
    assert against_the_others(written, modalities, TABLE, before) == {}


@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=3, max_size=6))
def test_the_cosine_is_the_one_of_the_vectors(vectors):
    rows = np.array(vectors)
    mean = rows[1:].mean(axis=0)
    length = np.linalg.norm(rows[0]) * np.linalg.norm(mean)
    if length < 1e-3:
        return
    found = cosine_with(rows @ rows.T, 0, range(1, len(rows)))
    assert found == pytest.approx(float(rows[0] @ mean) / length, abs=1e-6)


def test_a_change_of_nothing_has_no_direction():
    assert cosine_with(np.zeros((3, 3)), 0, [1, 2]) == 0.0
    assert AGAINST < 0 < folding.PIECE
