import pytest
import torch
from torch import nn

from common.losses import LOSSES, build_loss
from common.losses.base import Loss
from common.losses.deep import deep_loss
from common.losses.partial import merge_unannotated
from common.modality.bank import set_modality
from common.networks import build_network
from common.study import canonical_json, parse_study
from common.study.losses import (
    Boundary,
    ClDice,
    CrossEntropy,
    Dice,
    DiceCrossEntropy,
    DistanceWeightedCrossEntropy,
    ExponentialLogarithmic,
    Focal,
    GeneralizedDice,
    Hausdorff,
    Sum,
    Term,
    Tversky,
    UnifiedFocal,
    WeightedCrossEntropy,
    class_problems,
)
from tests.support.studies import small_study

SCHEDULED = Sum(
    terms=(
        Term(loss=GeneralizedDice(), weight=1.0, end_weight=0.01),
        Term(loss=Boundary(), weight=0.01, end_weight=1.0),
    )
)
CASES = {
    "dice_ce": DiceCrossEntropy(),
    "dice": Dice(),
    "dice, squared": Dice(squared=True),
    "dice, Jaccard": Dice(jaccard=True, include_background=True),
    "dice, by image": Dice(per_image=True),
    "cross_entropy": CrossEntropy(),
    "weighted_cross_entropy": WeightedCrossEntropy(),
    "weighted_cross_entropy, given": WeightedCrossEntropy(weights=(0.2, 1.0, 3.0)),
    "distance_weighted_cross_entropy": DistanceWeightedCrossEntropy(),
    "distance_weighted_cross_entropy, by distance": DistanceWeightedCrossEntropy(
        balanced=False
    ),
    "generalized_dice": GeneralizedDice(),
    "generalized_dice, by image": GeneralizedDice(weighting="simple", per_image=True),
    "boundary": Boundary(),
    "boundary, background": Boundary(include_background=True),
    "exponential_logarithmic": ExponentialLogarithmic(),
    "focal": Focal(),
    "focal, a root": Focal(gamma=0.5, alpha=0.75),
    "tversky": Tversky(),
    "unified_focal": UnifiedFocal(),
    "cldice": ClDice(),
    "hausdorff": Hausdorff(),
    "sum": SCHEDULED,
}
# Means over voxels or images: the loss of a batch is the mean of those of its halves.
MEANS = [
    "cross_entropy",
    "focal",
    "boundary",
    "hausdorff",
    "cldice",
    "dice, by image",
    "generalized_dice, by image",
]
SIZES = {"2-D": (2, 8, 6), "3-D": (2, 8, 6, 4)}
BOTH = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
EACH = pytest.mark.parametrize("case", CASES)


def truth_of(size=(2, 8, 6), classes=3, seed=0):
    return torch.randint(0, classes, size, generator=torch.Generator().manual_seed(seed))


def logits_for(truth, certainty, classes=3):
    """Return logits that favour the truth by so much."""
    one_hot = torch.nn.functional.one_hot(truth, classes).movedim(-1, 1)
    return (certainty * one_hot).float()


def some_logits(size=(2, 8, 6), classes=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size[0], classes, *size[1:], generator=generator).requires_grad_()


def loss_of(case):
    return build_loss(CASES[case])


def gradient_of(loss, logits, truth, *more):
    value = loss(logits, truth, *more)
    return value, *torch.autograd.grad(value, logits)


def test_every_entry_has_a_case_here():
    assert {config.name for config in CASES.values()} == set(LOSSES)


@EACH
@BOTH
def test_a_loss_is_a_finite_scalar(case, size):
    truth = truth_of(size)

    value = loss_of(case)(logits_for(truth, 0.0), truth)

    assert value.shape == ()
    assert value.dtype == torch.float32
    assert torch.isfinite(value)


@EACH
@BOTH
def test_a_loss_falls_as_predictions_get_better(case, size):
    truth = truth_of(size)

    values = [loss_of(case)(logits_for(truth, c), truth).item() for c in (-8, -1, 0, 1, 8)]

    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


@EACH
@BOTH
def test_a_perfect_match_is_near_zero_with_a_finite_gradient(case, size):
    truth = truth_of(size)
    logits = logits_for(truth, 1000.0).requires_grad_()

    value, gradient = gradient_of(loss_of(case), logits, truth)

    assert value.item() == pytest.approx(0.0, abs=1e-4)
    assert torch.isfinite(gradient).all()


@EACH
def test_an_utter_miss_has_a_finite_loss_and_gradient(case):
    truth = truth_of()
    logits = logits_for(truth, -1000.0).requires_grad_()

    value, gradient = gradient_of(loss_of(case), logits, truth)

    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@EACH
@BOTH
@pytest.mark.parametrize("there", [(0,), (0, 1), (2,), (1, 2)], ids=str)
def test_absent_classes_leave_the_gradient_finite(case, size, there):
    truth = torch.tensor(there)[truth_of(size, len(there))]

    value, gradient = gradient_of(loss_of(case), some_logits(size), truth)

    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@EACH
def test_every_class_gets_a_gradient(case):
    _, gradient = gradient_of(loss_of(case), some_logits(), truth_of())

    assert (gradient.abs().amax((0, 2, 3)) > 0).all()


@EACH
@BOTH
def test_classes_that_a_site_does_not_annotate_may_be_merged(case, size):
    truth = truth_of(size)
    truth[truth == 1] = 0
    logits = some_logits(size)
    merged, renumbered = merge_unannotated(logits, truth, (2,))

    value = loss_of(case)(merged, renumbered, 0.5, (0, 2))
    (gradient,) = torch.autograd.grad(value, logits)

    assert merged.shape[1] == 2
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@EACH
def test_a_step_against_the_gradient_lowers_the_loss(case):
    truth, logits = truth_of(), some_logits()
    before, gradient = gradient_of(loss_of(case), logits, truth)

    after = loss_of(case)(logits - gradient, truth)

    assert after < before


@EACH
@BOTH
def test_the_same_again_is_the_same_to_the_bit(case, size):
    truth, logits = truth_of(size), some_logits(size)
    loss = loss_of(case)

    first = gradient_of(loss, logits, truth, 0.3)
    again = gradient_of(loss, logits, truth, 0.3)

    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@EACH
def test_a_loss_changes_nothing_and_has_no_weights_to_send(case):
    truth, logits = truth_of(), some_logits().detach()
    kept = truth.clone(), logits.clone()
    loss = loss_of(case)

    loss(logits, truth)

    assert not isinstance(loss, nn.Module)
    assert torch.equal(truth, kept[0])
    assert torch.equal(logits, kept[1])


@EACH
@BOTH
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_scored_in_single_also_under_autocast(case, size, kind):
    truth, logits = truth_of(size), some_logits(size).detach().to(kind)
    loss = loss_of(case)

    with torch.autocast("cpu", torch.bfloat16):
        found = loss(logits, truth)

    assert found.dtype == torch.float32
    assert torch.equal(found, loss(logits.float(), truth))


@pytest.mark.parametrize("case", MEANS)
@BOTH
def test_a_mean_over_a_batch_is_that_of_its_halves(case, size):
    truth, logits = truth_of(size), some_logits(size).detach()
    loss = loss_of(case)

    halves = [loss(logits[i : i + 1], truth[i : i + 1]) for i in range(2)]

    torch.testing.assert_close(loss(logits, truth), sum(halves) / 2)


@EACH
def test_the_order_of_images_does_not_matter(case):
    truth, logits = truth_of((3, 8, 6)), some_logits((3, 8, 6)).detach()
    turned = torch.tensor([2, 0, 1])
    loss = loss_of(case)

    torch.testing.assert_close(loss(logits[turned], truth[turned]), loss(logits, truth))


@EACH
def test_only_a_sum_changes_over_the_training(case):
    truth, logits = truth_of(), some_logits().detach()
    loss = loss_of(case)

    values = {loss(logits, truth, progress).item() for progress in (0.0, 0.4, 1.0)}

    assert len(values) == (3 if case == "sum" else 1)


@EACH
def test_a_coarser_answer_may_be_scored_too(case):
    loss: Loss = loss_of(case)
    truth = truth_of((2, 8, 8))
    answers = [some_logits((2, 8, 8)), some_logits((2, 4, 4))]

    value = deep_loss(lambda logits, classes: loss(logits, classes, 0.5), answers, truth)
    gradients = torch.autograd.grad(value, answers)

    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@EACH
def test_a_study_can_say_it(case):
    study = small_study(loss=CASES[case])

    assert parse_study(canonical_json(study)) == study
    assert CASES[case].problems() == class_problems(CASES[case], 3) == []


@pytest.mark.parametrize("name", LOSSES)
def test_an_entry_says_what_it_is_and_where_it_comes_from(name):
    entry = LOSSES[name]

    assert entry.name == name
    assert entry.summary
    assert any(mark in entry.source for mark in ("arXiv:", "doi:"))


# Centreline Dice sees no width, so that by itself it has nothing to say of most voxels; the
# boundary loss first removes everything, as far voxels outweigh those of the structures.
LEARNT = {
    **CASES,
    "cldice": Sum(terms=(Term(loss=Dice(), weight=0.5), Term(loss=ClDice(), weight=0.5))),
    "boundary": Sum(terms=(Term(loss=Dice()), Term(loss=Boundary(), weight=0.1))),
}


def discs():
    """Return two noisy images (2, 1, 16, 16) of a disc and a square, and their classes."""
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    disc = (y - 5) ** 2 + (x - 5) ** 2 <= 9
    square = (y >= 9) & (y < 14) & (x >= 8) & (x < 14)
    classes = disc.long() + 2 * square.long()
    truth = torch.stack([classes, classes.flip(1)])
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return (truth + 0.3 * noise)[:, None], truth


@pytest.mark.parametrize("case", LEARNT)
def test_two_phantoms_can_be_learnt_by_heart(case):
    (x, truth), steps = discs(), 80
    network, loss = build_network(small_study()), build_loss(LEARNT[case])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    set_modality(network, ("ct", "mr"))

    for step in range(steps):
        optimiser.zero_grad()
        logits = network(x)
        right = (logits.argmax(1) == truth)[truth > 0].float().mean().item()
        if right > 0.9 and (logits.argmax(1) == truth).float().mean() > 0.95:
            return
        loss(logits, truth, step / steps).backward()
        optimiser.step()
    pytest.fail(f"after {steps} steps {right:.2f} of the structures' voxels are right")
