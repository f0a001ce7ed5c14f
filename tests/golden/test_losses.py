import math

import pytest
import torch
from monai.losses import (
    AsymmetricUnifiedFocalLoss,
    DiceCELoss,
    DiceLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    HausdorffDTLoss,
    SoftclDiceLoss,
    TverskyLoss,
)
from torch.nn.functional import cross_entropy

from common.losses import LOSSES, build_loss
from common.losses.deep import deep_loss
from common.losses.partial import merge_unannotated
from common.study.losses import (
    Boundary,
    ClDice,
    CrossEntropy,
    Dice,
    DiceCrossEntropy,
    ExponentialLogarithmic,
    Focal,
    GeneralizedDice,
    Hausdorff,
    Sum,
    Term,
    Tversky,
    UnifiedFocal,
    WeightedCrossEntropy,
)

BOTH = pytest.mark.parametrize("size", [(2, 6, 5), (2, 6, 5, 4)], ids=["2-D", "3-D"])
LN3 = math.log(3.0)
# Two classes, two voxels of classes 0 and 1; logits chosen so that the softmax is
#   voxel 0: (3/4, 1/4), voxel 1: (1/4, 3/4).
LOGITS = torch.tensor([[LN3, 0.0], [0.0, LN3]])[None, :, None]
TRUTH = torch.tensor([0, 1])[None, None]
# Cross entropy: both voxels give -log(3/4) = 0.2876821.
ENTROPY = 0.2876820724517809
# Soft Dice of class 1: 2 sum(p y) / (sum p + sum y) = 2 (3/4) / (1/4 + 3/4 + 1) = 3/4, so the
# loss is 1/4; the background's is the same. MONAI adds 1e-5 above and below.
DICE = 1 - (2 * 0.75 + 1e-5) / (2 + 1e-5)
# With squares: 1.5 / (1/16 + 9/16 + 1) = 12/13. Jaccard: 0.75 / (1 + 1 - 0.75) = 3/5, which
# MONAI doubles above and below.
SQUARED = 1 - (1.5 + 1e-5) / (1.625 + 1e-5)
JACCARD = 1 - (1.5 + 1e-5) / (2.5 + 1e-5)
# Tversky: hit 3/4, invented 1/4, missed 1/4: 0.75 / (0.75 + 0.25 (alpha + beta)).
TVERSKY = 1 - (0.75 + 1e-5) / (1 + 1e-5)
EVEN = 1 - (0.75 + 1e-5) / (1.25 + 1e-5)
# Exponential logarithmic: Dice with 1 above and below is 2.5 / 3 for both classes; each class
# has half of the voxels, so every voxel weighs sqrt(2).
EXP_LOG = 0.8 * math.log(3 / 2.5) ** 0.3 + 0.2 * math.sqrt(2) * ENTROPY**0.3
# Unified focal: the background voxel 0.4 (1/4)^0.5 CE, the structure's 0.6 CE, their mean; the
# Tversky error is 1/4 for both (0.6 + 0.4 = 1), the structure's to the power of 1/2: 1/2.
ERROR = 0.25 / (1 + 1e-5)
UNIFIED = 0.5 * ENTROPY * (0.4 * 0.5 + 0.6) / 2 + 0.5 * (ERROR + math.sqrt(ERROR)) / 2


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
        (Dice(squared=True), SQUARED),
        (Dice(jaccard=True), JACCARD),
        (Dice(per_image=True), DICE),
        (GeneralizedDice(), 1 / 4),
        (Tversky(), TVERSKY),
        (Tversky(false_positives=1.0, false_negatives=0.0), TVERSKY),
        (Tversky(false_positives=1.0, false_negatives=1.0), EVEN),
        (Focal(gamma=0.0), ENTROPY),
        (Focal(), ENTROPY / 16),
        (Focal(alpha=0.25), (ENTROPY * 0.75 + ENTROPY * 0.25) / 2 / 16),
        (WeightedCrossEntropy(), ENTROPY),
        (WeightedCrossEntropy(weights=(1.0, 9.0)), ENTROPY),
        # The surface of class 1 lies between the voxels: half a voxel from either.
        (Boundary(), (0.5 * 0.25 + 0.5 * 0.25) / 2),
        # Distances are 1 in either voxel, of either map: (1/4)² (1² + 1²) each.
        (Hausdorff(), 1 / 8),
        (ExponentialLogarithmic(), EXP_LOG),
        (UnifiedFocal(), UNIFIED),
    ],
    ids=repr,
)
def test_a_loss_is_that_worked_by_hand(config, expected):
    assert build_loss(config)(LOGITS, TRUTH).item() == pytest.approx(expected, rel=1e-6)


@BOTH
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


@BOTH
@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (Dice(squared=True), DiceLoss(squared_pred=True, batch=True)),
        (Dice(jaccard=True), DiceLoss(jaccard=True, batch=True)),
        (Dice(per_image=True), DiceLoss()),
        (GeneralizedDice(include_background=False), GeneralizedDiceLoss(batch=True)),
        (Tversky(), TverskyLoss(alpha=0.3, beta=0.7, batch=True)),
        (Hausdorff(exponent=1.0), HausdorffDTLoss(alpha=1.0)),
    ],
    ids=repr,
)
def test_losses_of_regions_are_those_of_monai(size, config, theirs):
    logits, truth = sample(size=size)
    theirs.to_onehot_y = theirs.softmax = True
    theirs.include_background = False

    found = build_loss(config)(logits, truth)

    torch.testing.assert_close(found, theirs(logits, truth[:, None]), rtol=1e-4, atol=1e-6)


@BOTH
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (0.5, 0.75), (3.0, 0.25)])
def test_focal_is_that_of_monai_summed_over_classes(size, gamma, alpha):
    # MONAI averages over classes too, all of which but one are 0 in each voxel.
    logits, truth = sample(size=size)
    theirs = FocalLoss(gamma=gamma, alpha=alpha, to_onehot_y=True, use_softmax=True)

    found = build_loss(Focal(gamma=gamma, alpha=alpha))(logits, truth)

    torch.testing.assert_close(found, 4 * theirs(logits, truth[:, None]))


@BOTH
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_unified_focal_of_two_classes_is_that_of_monai(size, weight):
    # One image, as MONAI pools none; its focal part is a mean over the two classes too.
    logits, truth = sample(classes=2, size=(1, *size[1:]))
    theirs = AsymmetricUnifiedFocalLoss(to_onehot_y=True, weight=weight, delta=0.6)

    found = build_loss(UnifiedFocal(focal_weight=weight))(logits, truth)

    expected = theirs(logits.softmax(1), truth[:, None]) * (1 + weight)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@BOTH
def test_cldice_is_that_of_monai_for_each_image_and_class(size):
    logits, truth = sample(size=size)
    p = logits.softmax(1)
    theirs = SoftclDiceLoss(iter_=3)

    found = build_loss(ClDice())(logits, truth)

    each = [
        theirs(p[i : i + 1, c : c + 1], (truth[i : i + 1] == c)[:, None].float())
        for i in range(2)
        for c in (1, 2, 3)
    ]
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_cldice_of_a_line_is_that_worked_by_hand():
    # A line one voxel wide in 3 x 3: eroding leaves nothing, so it is its own skeleton. Found
    # with 3/4 on it and 1/4 beside it: eroded, 1/4 everywhere, so the skeleton is 1/2 on it.
    # Precision (3/2 + 1) / (3/2 + 1) = 1; sensitivity (3 * 3/4 + 1) / (3 + 1) = 13/16.
    truth = torch.tensor([[0, 1, 0]] * 3)[None]
    logits = torch.stack([(1 - truth) * LN3, truth * LN3], dim=1)

    found = build_loss(ClDice())(logits, truth).item()

    assert found == pytest.approx(1 - 2 * (13 / 16) / (29 / 16), abs=1e-4)


def test_each_level_has_half_the_weight_of_a_finer_one():
    truth = torch.tensor([[[0, 0, 1, 1]] * 4])
    logits = [sample(classes=2, size=(1, side, side), seed=side)[0] for side in (4, 2, 1)]
    seen = [truth, torch.tensor([[[0, 1], [0, 1]]]), torch.tensor([[[1]]])]

    found = deep_loss(cross_entropy, logits, truth)

    each = [cross_entropy(y, t).item() for y, t in zip(logits, seen, strict=True)]
    assert found.item() == pytest.approx((4 * each[0] + 2 * each[1] + each[2]) / 7)


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
    "config",
    [
        LOSSES[name].config() if name != "sum" else Sum(terms=(Term(loss=Dice()),))
        for name in LOSSES
    ],
    ids=list(LOSSES),
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
