import math

import numpy as np
import pytest
from scipy import ndimage

from common.errors import InputError
from common.metrics import dice_of_labels, score_label


def square(start, stop, shape=(12, 12)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def surface_distances(first, second, spacing):
    """Distances in mm from the surface voxels of one mask to the other's, by SciPy alone."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    to_second = ndimage.distance_transform_edt(~edges[1], sampling=spacing)
    return to_second[edges[0]]


def test_two_squares_that_overlap_by_hand():
    # 16 and 16 voxels share 12: the first square is moved by one row.
    score = score_label(square((2, 2), (6, 6)), square((3, 2), (7, 6)), (1.0, 1.0))

    assert score.dice == pytest.approx(24 / 32)
    assert score.voe == pytest.approx(1 - 12 / 20)
    assert score.volume_difference == 0.0
    assert score.hd95_mm == pytest.approx(1.0)
    # Of 12 surface voxels, the outer row's four and the two in the middle of the inner row are
    # 1 mm from the other surface; the six at the sides lie on it.
    assert score.assd_mm == pytest.approx(0.5)


def test_two_single_voxels_are_as_far_apart_as_the_spacing_says():
    first, second = square((2, 3), (3, 4)), square((5, 7), (6, 8))

    score = score_label(first, second, (2.0, 0.5))

    assert score.dice == 0.0
    assert score.voe == 1.0
    assert score.hd95_mm == pytest.approx(math.hypot(3 * 2.0, 4 * 0.5))
    assert score.assd_mm == pytest.approx(math.hypot(6.0, 2.0))


def test_a_line_grown_by_one_voxel_by_hand():
    # A row of 3 voxels against a row of 4: distances 0, 0, 0 one way and 0, 0, 0, 1 the other.
    first, second = square((4, 2), (5, 5)), square((4, 2), (5, 6))

    score = score_label(first, second, (1.0, 3.0))

    assert score.assd_mm == pytest.approx(3.0 / 7.0)
    assert score.volume_difference == pytest.approx(-0.25)
    assert score.dice == pytest.approx(6 / 7)
    # The 95th percentile of (0, 0, 0, 3) lies at rank 2.85 of 0..3.
    assert score.hd95_mm == pytest.approx(0.85 * 3.0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)], ids=["cubes", "thick"])
@pytest.mark.parametrize("seed", range(3))
def test_distances_agree_with_scipy_in_3d(spacing, seed):
    rng = np.random.default_rng(seed)
    # Smooth noise above a threshold: several parts, some of which touch the image's edge.
    fields = [ndimage.gaussian_filter(rng.normal(size=(20, 18, 14)), 2.0) for _ in range(2)]
    first, second = (field > 0.02 for field in fields)

    score = score_label(first, second, spacing)

    there = surface_distances(first, second, spacing)
    back = surface_distances(second, first, spacing)
    assert score.assd_mm == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-5)
    percentiles = [np.percentile(part, 95) for part in (there, back)]
    assert score.hd95_mm == pytest.approx(max(percentiles), rel=1e-5)
    shared, union = (first & second).sum(), (first | second).sum()
    assert score.dice == pytest.approx(2 * shared / (first.sum() + second.sum()), rel=1e-6)
    assert score.voe == pytest.approx(1 - shared / union)
    assert score.volume_difference == pytest.approx(first.sum() / second.sum() - 1)


def test_a_slice_scores_the_same_with_and_without_its_third_axis():
    first, second = square((2, 2), (8, 9)), square((3, 2), (9, 7))

    flat = score_label(first, second, (1.0, 2.0))

    assert score_label(first[..., None], second[..., None], (1.0, 2.0, 5.0)) == flat


def test_a_missed_structure_costs_the_diagonal_and_is_not_nan():
    reference = square((2, 2), (5, 5))

    score = score_label(np.zeros_like(reference), reference, (1.0, 2.0))

    diagonal = math.hypot(12 * 1.0, 12 * 2.0)
    assert (score.dice, score.voe, score.volume_difference) == (0.0, 1.0, -1.0)
    assert (score.hd95_mm, score.assd_mm) == (diagonal, diagonal)
    assert (score.missed, score.absent, score.spurious) == (True, False, False)


def test_a_structure_that_is_not_there_costs_the_diagonal_and_is_flagged():
    prediction = square((2, 2), (5, 5))

    score = score_label(prediction, np.zeros_like(prediction), (1.0, 1.0))

    assert (score.dice, score.voe) == (0.0, 1.0)
    assert score.hd95_mm == score.assd_mm == pytest.approx(12 * math.sqrt(2))
    assert math.isnan(score.volume_difference)
    assert (score.missed, score.absent, score.spurious) == (False, False, True)


def test_a_structure_that_neither_has_is_absent_and_not_scored():
    nothing = np.zeros((6, 6), bool)

    score = score_label(nothing, nothing, (1.0, 1.0))

    numbers = (score.dice, score.hd95_mm, score.assd_mm, score.volume_difference, score.voe)
    assert all(math.isnan(number) for number in numbers)
    assert (score.missed, score.absent, score.spurious) == (False, True, False)


def test_finding_less_never_scores_better():
    reference = square((2, 2), (8, 8))

    poor = score_label(square((0, 0), (3, 3)), reference, (1.0, 1.0))
    missed = score_label(np.zeros_like(reference), reference, (1.0, 1.0))

    assert missed.dice < poor.dice
    assert missed.hd95_mm > poor.hd95_mm
    assert missed.assd_mm > poor.assd_mm


def test_a_mask_that_must_not_be_written_to_is_accepted_and_kept():
    mask = square((2, 2), (5, 5))
    mask.flags.writeable = False

    assert score_label(mask, mask, (1.0, 1.0)).dice == 1.0


@pytest.mark.parametrize(
    ("other", "spacing", "word"),
    [
        ((12, 11), (1.0, 1.0), "resample"),
        ((12, 12), (1.0, 1.0, 1.0), "spacing_mm"),
        ((12, 12), (1.0, 0.0), "spacing_mm"),
        ((12, 12), (1.0, math.nan), "spacing_mm"),
    ],
    ids=["shape", "too many", "zero", "nan"],
)
def test_masks_that_do_not_fit_are_refused(other, spacing, word):
    with pytest.raises(InputError, match=word):
        score_label(square((2, 2), (5, 5)), np.ones(other, bool), spacing)


def test_a_mask_of_one_axis_is_refused():
    with pytest.raises(InputError, match="expected 2 or 3"):
        score_label(np.ones(5, bool), np.ones(5, bool), (1.0,))


def test_a_line_of_voxels_can_be_scored():
    first, second = square((0, 1), (1, 4), (1, 9)), square((0, 2), (1, 4), (1, 9))

    assert score_label(first, second, (1.0, 1.0)).dice == pytest.approx(0.8)


def test_dice_of_labels_by_hand():
    prediction = np.array([[1, 1, 2], [0, 2, 2]], np.uint8)
    reference = np.array([[1, 2, 2], [0, 0, 7]], np.int64)

    dice = dice_of_labels(prediction, reference, (1, 2, 3, 7))

    assert dice[1] == pytest.approx(2 / 3)
    assert dice[2] == pytest.approx(2 / 5)
    assert math.isnan(dice[3])
    assert dice[7] == 0.0


def test_dice_of_labels_agrees_with_the_score_of_each_label():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 4, size=(2, 9, 8, 7))

    dice = dice_of_labels(prediction, reference, (1, 2, 3))

    for label, value in dice.items():
        score = score_label(prediction == label, reference == label, (1.0, 1.0, 1.0))
        assert value == pytest.approx(score.dice, rel=1e-6)


def test_dice_of_no_labels_is_empty():
    assert dice_of_labels(np.zeros((2, 2), int), np.zeros((2, 2), int), ()) == {}


def test_label_maps_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="expected the same"):
        dice_of_labels(np.zeros((2, 3), int), np.zeros((3, 2), int), (1,))
    with pytest.raises(InputError, match="hold -1"):
        dice_of_labels(np.full((2, 2), -1), np.zeros((2, 2), int), (1,))
