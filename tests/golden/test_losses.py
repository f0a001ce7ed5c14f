import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch.nn.functional import cross_entropy

from common.losses import build_loss
from common.losses.partial import merge_unannotated
from common.study.losses import CrossEntropy, Dice, DiceCrossEntropy

# Two classes, two voxels of classes 0 and 1; logits chosen so that the softmax is
#   voxel 0: (3/4, 1/4), voxel 1: (1/4, 3/4).
LOGITS = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)]])[None, :, None]
TRUTH = torch.tensor([0, 1])[None, None]
# Cross entropy: both voxels give -log(3/4) = 0.2876821.
ENTROPY = 0.2876820724517809
# Soft Dice of class 1: 2 sum(p y) / (sum p + sum y) = 2 (3/4) / (1/4 + 3/4 + 1) = 3/4, so the
# loss is 1/4; the background's is the same. MONAI adds 1e-5 above and below.
DICE = 1 - (2 * 0.75 + 1e-5) / (2 + 1e-5)


def sample(classes=4, size=(2, 6, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size[0], classes, *size[1:], generator=generator)
    return logits, torch.randint(0, classes, size, generator=generator)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CrossEntropy(), ENTROPY),
        (Dice(), DICE),
        (Dice(include_background=True), DICE),
        (DiceCrossEntropy(), DICE + ENTROPY),
        (DiceCrossEntropy(dice_weight=0.5, cross_entropy_weight=2.0), 0.5 * DICE + 2 * ENTROPY),
    ],
    ids=["cross entropy", "dice", "dice with background", "sum", "weighted sum"],
)
def test_a_loss_is_that_worked_by_hand(config, expected):
    assert build_loss(config)(LOGITS, TRUTH).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("size", [(2, 6, 5), (2, 6, 5, 4)], ids=["2-D", "3-D"])
def test_losses_are_those_of_monai_and_torch(size):
    logits, truth = sample(size=size)
    options = {"to_onehot_y": True, "softmax": True, "batch": True}

    dice = DiceLoss(include_background=False, **options)(logits, truth[:, None])
    both = DiceCELoss(include_background=True, **options)(logits, truth[:, None])

    torch.testing.assert_close(build_loss(Dice())(logits, truth), dice)
    torch.testing.assert_close(
        build_loss(CrossEntropy())(logits, truth), cross_entropy(logits, truth)
    )
    with_background = DiceCrossEntropy(include_background=True)
    torch.testing.assert_close(build_loss(with_background)(logits, truth), both)


def test_dice_is_pooled_over_the_batch():
    logits, truth = sample(classes=2)
    truth[0] = 0

    p, y = logits.softmax(1)[:, 1], truth == 1
    expected = 1 - (2 * (p * y).sum() + 1e-5) / (p.sum() + y.sum() + 1e-5)

    torch.testing.assert_close(build_loss(Dice())(logits, truth), expected)


def test_half_precision_logits_are_scored_in_single():
    logits, truth = sample()

    found = build_loss(DiceCrossEntropy())(logits.half(), truth)

    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, build_loss(DiceCrossEntropy())(logits.half().float(), truth)
    )


def test_probabilities_of_merged_classes_are_summed():
    logits, truth = sample(classes=5)
    truth[truth == 1] = 0
    truth[truth == 3] = 0

    merged, renumbered = merge_unannotated(logits, truth, (2, 4))

    p = logits.softmax(1)
    expected = torch.stack([p[:, 0] + p[:, 1] + p[:, 3], p[:, 2], p[:, 4]], dim=1)
    torch.testing.assert_close(merged.softmax(1), expected)
    assert torch.equal(renumbered, torch.tensor([0, 0, 1, 0, 2])[truth])


def test_where_all_is_annotated_nothing_changes():
    logits, truth = sample(classes=4)

    merged, same = merge_unannotated(logits, truth, (1, 2, 3))

    assert merged is logits
    assert same is truth


def test_cross_entropy_of_merged_classes_is_that_of_the_summed_probability():
    logits, truth = sample(classes=3)
    truth[truth == 2] = 0

    found = build_loss(CrossEntropy())(*merge_unannotated(logits, truth, (1,)))

    p = logits.softmax(1)
    chosen = torch.where(truth == 1, p[:, 1], p[:, 0] + p[:, 2])
    torch.testing.assert_close(found, -chosen.log().mean())


@pytest.mark.parametrize(
    "config", [CrossEntropy(), Dice(), DiceCrossEntropy()], ids=lambda config: config.name
)
def test_a_site_does_not_unlearn_a_structure_that_it_does_not_annotate(config):
    # The true class is background or the structure, nobody knows: whatever moves the sum of the
    # two moves each in proportion to its probability, and never one against the other.
    logits, truth = sample(classes=3)
    truth[truth == 2] = 0
    logits.requires_grad_()

    build_loss(config)(*merge_unannotated(logits, truth, (1,))).backward()

    p = logits.detach().softmax(1)
    background, structure = logits.grad[:, 0], logits.grad[:, 2]
    torch.testing.assert_close(background * p[:, 2], structure * p[:, 0], rtol=1e-4, atol=1e-7)


def test_without_merging_the_site_would_unlearn_it():
    logits, truth = sample(classes=3)
    truth[truth == 2] = 0
    logits.requires_grad_()

    build_loss(CrossEntropy())(logits, truth).backward()

    assert (logits.grad[:, 2] > 0).all()


def test_the_merged_loss_is_finite_at_extreme_logits():
    logits = torch.tensor([[200.0, -200.0, 300.0], [0.0, 500.0, -300.0], [1.0, 0.0, 80.0]])
    logits = logits.T[None, :, :, None].contiguous().requires_grad_()
    truth = torch.tensor([0, 1, 0])[None, :, None]

    value = build_loss(DiceCrossEntropy())(*merge_unannotated(logits, truth, (1,)))
    value.backward()

    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
