"""Losses of distances and of weights by class: brute force, by hand, and where MONAI differs."""

import math

import numpy as np
import pytest
import torch
from monai.losses import BoundaryLoss, GeneralizedDiceLoss
from scipy.spatial.distance import cdist
from torch.nn.functional import cross_entropy, one_hot

from common.losses import build_loss
from common.losses.distances import border_closeness, signed_distances
from common.losses.entropy import inverse_frequencies
from common.study.losses import (
    Boundary,
    CrossEntropy,
    Dice,
    DistanceWeightedCrossEntropy,
    GeneralizedDice,
    Sum,
    Term,
    WeightedCrossEntropy,
)
from tests.golden.test_losses import BOTH, sample

LN2, LN3 = math.log(2.0), math.log(3.0)


def to_nearest(points, mask):
    """Return the distance of each point from the nearest voxel of a mask."""
    return cdist(points, np.argwhere(mask)).min(1)


def voxels_of(shape):
    return np.argwhere(np.ones(shape, bool))


@BOTH
def test_signed_distances_are_those_of_brute_force(size):
    masks = np.random.default_rng(0).random((2, 3, *size[1:])) < 0.3

    found = signed_distances(masks)

    for mask, own in zip(masks.reshape(-1, *size[1:]), found.reshape(6, -1), strict=True):
        points = voxels_of(mask.shape)
        outside, inside = to_nearest(points, mask) - 0.5, 0.5 - to_nearest(points, ~mask)
        np.testing.assert_allclose(own, np.where(mask.ravel(), inside, outside), rtol=1e-6)


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "full"])
def test_what_has_no_surface_has_no_distances(filled):
    assert not signed_distances(np.full((1, 1, 4, 5), filled)).any()


def instances():
    """Return class maps of several instances, two of which touch and one of which is far."""
    image = np.zeros((24, 20), np.int64)
    image[2:6, 2:6] = 1
    image[2:6, 8:12] = 1
    image[7:10, 3:6] = 2
    image[6:9, 8:11] = 2
    image[20:22, 17:19] = 1
    return image


INSTANCES = ((2, 5, 2, 5), (2, 5, 8, 11), (7, 9, 3, 5), (6, 8, 8, 10), (20, 21, 17, 18))


@pytest.mark.parametrize("width", [0.5, 1.0, 5.0, 50.0])
def test_closeness_to_two_instances_is_that_of_brute_force(width):
    image = instances()
    points = voxels_of(image.shape)
    each = []
    for top, bottom, left, right in INSTANCES:
        mask = np.zeros(image.shape, bool)
        mask[top : bottom + 1, left : right + 1] = True
        each.append(to_nearest(points, mask))
    one, two = np.sort(each, axis=0)[:2]

    found = border_closeness(image[None], width)[0]

    expected = np.exp(-((one + two) ** 2) / (2 * width**2)).reshape(image.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_closeness_in_three_dimensions_is_that_of_brute_force():
    image = np.zeros((6, 7, 8), np.int64)
    image[1:3, 1:3, 1:3], image[4, 4:6, 5:7] = 1, 1
    points = voxels_of(image.shape)
    one = to_nearest(points, np.pad(image[:3], ((0, 3), (0, 0), (0, 0))) > 0)
    two = to_nearest(points, np.pad(image[3:], ((3, 0), (0, 0), (0, 0))) > 0)

    found = border_closeness(image[None], 2.0)[0]

    expected = np.exp(-((one + two) ** 2) / 8).reshape(image.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_instances_have_no_gap(count):
    image = np.zeros((1, 6, 6), np.int64)
    image[:, 2:4, 2:4] = count

    assert not border_closeness(image, 5.0).any()


def test_distance_weighted_entropy_is_that_worked_by_hand():
    # Voxels 0 1 0 2: instances at 1 and 3. d1 + d2 is 1 + 3 = 4, then 0 + 2, 1 + 1, 0 + 2.
    # Class 0 has 2 of 4 voxels and weighs 4 / (3 * 2) = 2/3, the others 4/3.
    truth = torch.tensor([0, 1, 0, 2])[None, None]
    logits = torch.tensor([[LN2, 0.0, 0.0], [0.0, 0, 0], [0, 0, 0], [0, 0, LN2]])
    far, near = math.exp(-(4**2) / 8), math.exp(-(2**2) / 8)
    weights = [2 / 3 + 10 * far, 4 / 3 + 10 * near, 2 / 3 + 10 * near, 4 / 3 + 10 * near]
    entropies = [LN2, LN3, LN3, LN2]  # probabilities 1/2, 1/3, 1/3, 1/2
    config = DistanceWeightedCrossEntropy(border_width=2.0)

    found = build_loss(config)(logits.T[None, :, None], truth).item()

    total = sum(w * e for w, e in zip(weights, entropies, strict=True))
    assert found == pytest.approx(total / sum(weights), rel=1e-5)


def test_entropy_with_given_weights_is_that_worked_by_hand():
    # Entropies ln 4/3 and ln 2, weights 1 and 3: (0.287682 + 3 * 0.693147) / 4 = 0.591781.
    logits = torch.tensor([[LN3, 0.0], [0.0, 0.0]])[None, :, None]
    truth = torch.tensor([0, 1])[None, None]

    found = build_loss(WeightedCrossEntropy(weights=(1.0, 3.0)))(logits, truth).item()

    assert found == pytest.approx(0.591781, abs=1e-6)


@BOTH
def test_weighted_entropy_is_that_of_torch(size):
    logits, truth = sample(size=size)
    weights = (0.1, 1.0, 2.0, 5.0)

    found = build_loss(WeightedCrossEntropy(weights=weights))(logits, truth)

    torch.testing.assert_close(found, cross_entropy(logits, truth, torch.tensor(weights)))


def test_weights_stay_with_their_classes_where_others_are_merged():
    logits, truth = sample(classes=2)
    config = WeightedCrossEntropy(weights=(0.1, 1.0, 2.0, 5.0))

    found = build_loss(config)(logits, truth, 0.0, (0, 2))

    torch.testing.assert_close(found, cross_entropy(logits, truth, torch.tensor([0.1, 2.0])))


def test_a_patch_in_which_every_weight_is_0_teaches_nothing():
    logits, truth = sample(classes=3)
    logits.requires_grad_()

    value = build_loss(WeightedCrossEntropy(weights=(0.0, 1.0, 1.0)))(logits, truth * 0)
    value.backward()

    assert value.item() == 0.0
    assert not logits.grad.any()


def test_by_inverse_frequency_every_class_in_the_batch_counts_alike():
    logits, truth = sample(classes=4)
    truth[truth == 3] = 1
    truth[truth == 2] = 1
    truth[0, :, 0] = 2

    found = build_loss(WeightedCrossEntropy())(logits, truth)

    each = cross_entropy(logits, truth, reduction="none")
    means = [each[truth == c].mean() for c in (0, 1, 2)]
    torch.testing.assert_close(found, torch.stack(means).mean())
    weights = inverse_frequencies(truth, 4)
    assert weights[3] == 0
    assert weights[truth].mean().item() == pytest.approx(1.0)


@BOTH
def test_the_map_of_boundary_is_that_of_monai_less_half_a_voxel(size):
    truth = sample(size=size)[1] % 3
    masks = one_hot(truth, 4).movedim(-1, 1)[:, 1:]

    found = signed_distances(masks.numpy() > 0)

    theirs = BoundaryLoss().compute_distance_map(masks.float()).numpy() - 0.5
    there = masks.flatten(2).any(2).numpy().reshape(2, 3, *[1] * (len(size) - 1))
    np.testing.assert_allclose(found, np.where(there, theirs, 0), rtol=1e-6)


def test_to_miss_a_line_costs_something_in_boundary():
    # In MONAI's map the line is 0 and all else is above: an empty answer is the best one.
    truth = torch.zeros(1, 7, 7, dtype=torch.long)
    truth[0, :, 3] = 1
    right = 20.0 * one_hot(truth, 2).movedim(-1, 1).float()
    empty = 20.0 * one_hot(truth * 0, 2).movedim(-1, 1).float()
    theirs = BoundaryLoss(to_onehot_y=True, softmax=True, include_background=False)
    ours = build_loss(Boundary())

    assert theirs(empty, truth[:, None]) <= theirs(right, truth[:, None])
    assert ours(right, truth).item() == pytest.approx(0.0, abs=1e-6)
    assert ours(empty, truth).item() == pytest.approx(0.5 * 7 / 49, abs=1e-6)


def test_generalised_dice_does_not_flatten_in_a_large_patch():
    # Half the voxels of 64³ wrong: 1 - 1/2. MONAI's own smoothing, 1e-5, is as large as the
    # weighted volumes, 1 / voxels, and halves the loss and its gradient.
    truth = torch.zeros(1, 64, 64, 64, dtype=torch.long)
    truth[:, :32] = 1
    wrong = truth.clone()
    wrong[:, :, :32] = 1 - wrong[:, :, :32]
    logits = 20.0 * one_hot(wrong, 2).movedim(-1, 1).float()

    theirs = GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True)

    assert build_loss(GeneralizedDice())(logits, truth).item() == pytest.approx(0.5, abs=1e-4)
    assert theirs(logits, truth[:, None]).item() < 0.4


SCHEDULE = Sum(
    terms=(
        Term(loss=Dice(), weight=2.0),
        Term(loss=CrossEntropy(), weight=1.0, end_weight=0.0),
        Term(loss=Boundary(), weight=0.0, end_weight=0.5),
    )
)


@pytest.mark.parametrize(
    ("progress", "weights"),
    [(0.0, (2, 1, 0)), (0.25, (2, 0.75, 0.125)), (1.0, (2, 0, 0.5))],
    ids=["start", "a quarter", "end"],
)
def test_a_sum_is_weighted_by_how_far_the_training_is(progress, weights):
    logits, truth = sample()
    parts = [build_loss(term.loss)(logits, truth) for term in SCHEDULE.terms]

    found = build_loss(SCHEDULE)(logits, truth, progress)

    expected = sum(w * part for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(found, expected)


def test_a_term_costs_nothing_while_its_weight_is_0(monkeypatch):
    called = []
    monkeypatch.setattr("common.losses.surface.signed_distances", called.append)
    logits, truth = sample()

    build_loss(SCHEDULE)(logits, truth, 0.0)

    assert not called


def test_a_sum_hands_on_which_classes_are_there():
    logits, truth = sample(classes=2)
    weighted = WeightedCrossEntropy(weights=(0.1, 1.0, 2.0, 5.0))

    found = build_loss(Sum(terms=(Term(loss=weighted),)))(logits, truth, 0.0, (0, 3))

    torch.testing.assert_close(found, build_loss(weighted)(logits, truth, 0.0, (0, 3)))
