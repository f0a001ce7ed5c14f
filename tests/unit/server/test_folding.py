from dataclasses import replace

import numpy as np
import pytest

from common.errors import RunError, UpdateRefusedError
from common.tensors import TensorFile, read_tensors, write_tensors
from server import folding
from server.folding import Contribution, fold
from tests.support.studies import table

TABLE = table(
    **{
        "w": ("shared", (2,)),
        "ct.norm": ("modality:ct", (2,)),
        "mr.norm": ("modality:mr", (2,)),
        "pet.norm": ("modality:pet", (2,)),
        "running": ("site", (2,)),
        "out#background": ("head:background", ()),
        "out#liver": ("head:liver", ()),
        "out#spleen": ("head:spleen", ()),
        "none": ("shared", (0, 3)),
    }
)

# Two CT sites with 30 and 10 cases, one MR site with 20. Liver is annotated by A and C, spleen
# by B alone; nobody has PET, and nobody sends what stays at a site.
SITES = {
    "A": ({"ct": 30}, ("liver",), 1.0),
    "B": ({"ct": 10}, ("spleen",), 2.0),
    "C": ({"mr": 20}, ("liver",), 4.0),
}
BEFORE = 100.0


def constant(names, value):
    return {n: np.full(TABLE[n].shape, value, np.float32) for n in names}


@pytest.fixture
def round_of_three(tmp_path):
    """Write the weights before and three updates, each of one value throughout."""
    write_tensors(tmp_path / "before", constant(TABLE, BEFORE), {"kinds": "old"})
    contributions = {}
    for site, (cases, annotated, value) in SITES.items():
        names = ["w", "none", "out#background", *(f"{m}.norm" for m in cases)]
        names += [f"out#{label}" for label in annotated]
        write_tensors(tmp_path / site, constant(names, value), {})
        contributions[site] = Contribution(
            file=tmp_path / site, cases=cases, annotated=annotated
        )
    return contributions


def folded(contributions, *, balance=True, expected=TABLE):
    folder = contributions["A"].file.parent
    fold(
        contributions,
        expected,
        folder / "before",
        folder / "after",
        balance_modalities=balance,
        metadata={"round": "1"},
    )
    return read_tensors(folder / "after")


def value_of(array):
    return float(array.flat[0])


def test_each_kind_is_averaged_over_those_who_trained_it(round_of_three):
    found = {
        name: value_of(array) for name, array in folded(round_of_three).items() if array.size
    }

    assert found == {
        "w": 0.5 * (30 / 40 * 1 + 10 / 40 * 2) + 0.5 * 4,  # both modalities weigh the same
        "ct.norm": 30 / 40 * 1 + 10 / 40 * 2,
        "mr.norm": 4.0,
        "pet.norm": BEFORE,  # nobody trained it
        "running": BEFORE,  # never leaves a site
        "out#background": 0.5 * (30 / 40 * 1 + 10 / 40 * 2) + 0.5 * 4,
        "out#liver": 0.5 * 1 + 0.5 * 4,  # A is the only CT site with it
        "out#spleen": 2.0,
    }


def test_unbalanced_every_case_weighs_the_same(round_of_three):
    found = folded(round_of_three, balance=False)

    assert value_of(found["w"]) == pytest.approx((30 * 1 + 10 * 2 + 20 * 4) / 60)
    assert value_of(found["out#liver"]) == pytest.approx((30 * 1 + 20 * 4) / 50)
    assert value_of(found["ct.norm"]) == pytest.approx((30 * 1 + 10 * 2) / 40)


def test_a_site_of_both_modalities_counts_in_each(round_of_three):
    both = replace(round_of_three["C"], cases={"ct": 40, "mr": 20})
    names = ["w", "none", "out#background", "out#liver", "ct.norm", "mr.norm"]
    write_tensors(both.file, constant(names, 4.0), {})

    found = folded({**round_of_three, "C": both})

    assert value_of(found["ct.norm"]) == pytest.approx((30 * 1 + 10 * 2 + 40 * 4) / 80)
    assert value_of(found["w"]) == pytest.approx(
        0.5 * (30 * 1 + 10 * 2 + 40 * 4) / 80 + 0.5 * 4
    )


def test_the_order_of_contributions_does_not_matter(round_of_three):
    straight = folded(round_of_three)
    turned = folded(dict(reversed(round_of_three.items())))

    assert {n: a.tobytes() for n, a in turned.items()} == {
        n: a.tobytes() for n, a in straight.items()
    }


def test_without_any_update_everything_keeps_its_value(round_of_three):
    path = round_of_three["A"].file.parent

    fold({}, TABLE, path / "before", path / "after", balance_modalities=True, metadata={})

    assert read_tensors(path / "after").keys() == TABLE.keys()
    assert {value_of(a) for a in read_tensors(path / "after").values() if a.size} == {BEFORE}


@pytest.mark.parametrize("piece", [7, 1 << 18], ids=["many pieces", "one piece"])
def test_the_fold_is_a_plain_computation_in_numpy(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(folding, "PIECE", piece)
    rng = np.random.default_rng(0)
    expected = table(w=("shared", (5, 4, 3)), v=("shared", ()))
    sent = {
        s: {n: rng.normal(size=p.shape).astype(np.float32) for n, p in expected.items()}
        for s in SITES
    }
    for site, weights in sent.items():
        write_tensors(tmp_path / site, weights, {})
    write_tensors(tmp_path / "before", sent["A"], {})
    contributions = {
        s: Contribution(file=tmp_path / s, cases=SITES[s][0], annotated=()) for s in SITES
    }

    found = folded(contributions, expected=expected, balance=False)

    for name, array in found.items():
        stacked = np.stack([sent[s][name] for s in SITES]).astype(np.float64)
        mean = np.average(stacked, axis=0, weights=[30, 10, 20]).astype(np.float32)
        np.testing.assert_allclose(array, mean, rtol=1.2e-7, atol=1e-9)


def test_the_new_file_has_the_metadata_and_the_order_of_the_table(round_of_three):
    found = folded(round_of_three)

    assert list(found) == list(TABLE)
    assert all(found[n].shape == p.shape for n, p in TABLE.items())
    with TensorFile(round_of_three["A"].file.with_name("after")) as file:
        assert file.metadata == {"round": "1"}


def test_a_fold_that_fails_leaves_nothing(round_of_three):
    wrong = constant(["w", "none", "out#background", "out#spleen"], 1.0)
    wrong["ct.norm"] = np.ones(2, np.float64)
    write_tensors(round_of_three["B"].file, wrong, {})

    with pytest.raises(UpdateRefusedError, match="float64"):
        folded(round_of_three)

    names = {path.name for path in round_of_three["A"].file.parent.iterdir()}
    assert names == {"before", "A", "B", "C"}


def test_a_folder_that_may_not_be_written_is_told(round_of_three, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.files.os.fsync", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        folded(round_of_three)
