"""Losses of regions: configuration in, a function of logits and class indices out.

MONAI's classes, set so that the value depends neither on the size of a patch nor on its type.
"""

from monai.losses.dice import DiceLoss
from monai.losses.dice import GeneralizedDiceLoss as MonaiGeneralizedDice
from monai.losses.tversky import TverskyLoss
from torch import Tensor

from common.losses.base import Classes, Logits, Loss, Scalar, single
from common.losses.entropy import entropy_of
from common.study.losses_region import Dice, DiceCrossEntropy, GeneralizedDice, Tversky

# A class weighs 1 / voxels², so that the sums of generalised Dice are near 1 / voxels: MONAI's
# own 1e-5 is larger than that in a patch of 64³ voxels and flattens the loss.
NO_SMOOTHING = 1e-12


def build_dice(config: Dice) -> Loss:
    """Build soft Dice or Jaccard."""
    return _of_monai(
        DiceLoss(
            to_onehot_y=True,
            softmax=True,
            batch=not config.per_image,
            include_background=config.include_background,
            squared_pred=config.squared,
            jaccard=config.jaccard,
        )
    )


def build_generalized_dice(config: GeneralizedDice) -> Loss:
    """Build generalised Dice."""
    return _of_monai(
        MonaiGeneralizedDice(
            to_onehot_y=True,
            softmax=True,
            batch=not config.per_image,
            include_background=config.include_background,
            w_type=config.weighting,
            smooth_nr=NO_SMOOTHING,
            smooth_dr=NO_SMOOTHING,
        )
    )


def build_tversky(config: Tversky) -> Loss:
    """Build the Tversky loss, pooled over the batch."""
    return _of_monai(
        TverskyLoss(
            to_onehot_y=True,
            softmax=True,
            batch=True,
            include_background=config.include_background,
            alpha=config.false_positives,
            beta=config.false_negatives,
        )
    )


def build_dice_cross_entropy(config: DiceCrossEntropy) -> Loss:
    """Build the weighted sum of soft Dice and cross entropy."""
    dice = build_dice(Dice(include_background=config.include_background))

    def score(logits: Logits, classes: Classes) -> Scalar:
        entropy = entropy_of(logits, classes).mean()
        region = config.dice_weight * dice(logits, classes)
        return region + config.cross_entropy_weight * entropy

    return single(score)


def _of_monai(module: DiceLoss | MonaiGeneralizedDice | TverskyLoss) -> Loss:
    def score(logits: Logits, classes: Classes) -> Scalar:
        value: Tensor = module(logits, classes[:, None])
        return value

    return single(score)
