import math

import numpy as np
import pytest

from deploy.phantoms.anatomy import ORGANS, Tissue, label_map, sample_anatomy
from deploy.phantoms.difficulty import DIFFICULTIES
from deploy.phantoms.shapes import Blob, grid_axes, paint

PATIENTS = 40
SHAPES = {"2-D": (64, 64), "3-D": (48, 48, 32)}


def draw(shape, *, difficulty="default", seed=0):
    return sample_anatomy(shape, DIFFICULTIES[difficulty], np.random.default_rng(seed))


def share(maps, tissue):
    return float(np.mean([(one == tissue).mean() for one in maps]))


@pytest.mark.parametrize(
    ("organ", "expected", "tolerance"),
    [
        ("liver", 0.074, 0.007),
        ("spleen", 0.020, 0.003),
        ("left_kidney", 0.012, 0.002),
        ("right_kidney", 0.012, 0.002),
    ],
)
def test_an_organ_takes_its_share_of_a_2d_image(organ, expected, tolerance):
    maps = [draw(SHAPES["2-D"], seed=seed) for seed in range(PATIENTS)]

    assert share(maps, ORGANS[organ]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_every_patient_has_every_organ(shape, difficulty):
    maps = [draw(shape, difficulty=difficulty, seed=seed) for seed in range(PATIENTS)]

    smallest = min((one == organ).mean() for one in maps for organ in ORGANS.values())

    assert smallest > 0.0015


def test_an_organ_of_a_volume_has_the_proportions_of_the_slice():
    maps = [draw(SHAPES["3-D"], seed=seed) for seed in range(10)]

    shares = {name: share(maps, tissue) for name, tissue in ORGANS.items()}

    assert shares["liver"] == pytest.approx(0.045, abs=0.008)
    assert shares["spleen"] == pytest.approx(0.0082, abs=0.0025)
    assert shares["left_kidney"] == pytest.approx(shares["right_kidney"], rel=0.3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_liver_and_right_kidney_lie_at_high_first_indices(shape):
    for seed in range(PATIENTS):
        one = draw(shape, seed=seed)
        middle = {name: np.argwhere(one == t)[:, 0].mean() for name, t in ORGANS.items()}

        assert min(middle["liver"], middle["right_kidney"]) > shape[0] / 2
        assert max(middle["spleen"], middle["left_kidney"]) < shape[0] / 2


def test_the_spine_lies_behind_the_liver():
    one = draw(SHAPES["2-D"])

    bone, liver = (np.argwhere(one == t)[:, 1].mean() for t in (Tissue.BONE, Tissue.LIVER))

    assert bone < liver


def test_organs_stay_inside_the_muscle_wall():
    for seed in range(PATIENTS):
        one = draw(SHAPES["2-D"], seed=seed)
        organs = np.isin(one, list(ORGANS.values()))
        beside = np.roll(organs, 1, 0) | np.roll(organs, -1, 0) | np.roll(organs, 1, 1)

        assert not (beside & (one == Tissue.AIR)).any()


def test_the_same_seed_gives_the_same_patient():
    np.testing.assert_array_equal(draw(SHAPES["3-D"], seed=5), draw(SHAPES["3-D"], seed=5))


def test_two_seeds_give_two_patients():
    assert (draw(SHAPES["2-D"], seed=1) != draw(SHAPES["2-D"], seed=2)).mean() > 0.05


def test_only_hard_phantoms_hold_mimics_of_organs():
    mimics = (Tissue.LIVER_MIMIC, Tissue.SPLEEN_MIMIC, Tissue.KIDNEY_MIMIC)

    found = {
        name: any(
            np.isin(draw((64, 64), difficulty=name, seed=s), mimics).any() for s in range(9)
        )
        for name in DIFFICULTIES
    }

    assert found == {"easy": False, "default": False, "hard": True}


def test_easy_organs_are_larger():
    easy, default = (
        [draw(SHAPES["2-D"], difficulty=name, seed=seed) for seed in range(PATIENTS)]
        for name in ("easy", "default")
    )

    assert all(share(easy, t) > share(default, t) for t in ORGANS.values())


def test_labels_are_numbered_in_the_order_given_and_mimics_are_background():
    tissue = np.array([[Tissue.LIVER, Tissue.SPLEEN], [Tissue.LIVER_MIMIC, Tissue.LEFT_KIDNEY]])

    labels = label_map(tissue.astype(np.uint8), ("spleen", "liver"))

    assert labels.tolist() == [[2, 1], [0, 0]]
    assert labels.dtype == np.uint8


def test_a_blob_without_wobble_has_the_area_of_its_ellipse():
    axes = grid_axes((200, 200))
    target = np.zeros((200, 200), np.uint8)

    paint(target, Blob((0.1, -0.2), (0.5, 0.3), angle=0.7), 1, axes)

    assert target.mean() * 4 == pytest.approx(math.pi * 0.5 * 0.3, rel=0.01)


def test_a_blob_half_outside_the_grid_is_cut_off():
    axes = grid_axes((100, 100))
    target = np.zeros((100, 100), np.uint8)

    paint(target, Blob((1.0, 0.0), (0.5, 0.5)), 1, axes)

    assert target.mean() * 4 == pytest.approx(math.pi * 0.25 / 2, rel=0.02)
