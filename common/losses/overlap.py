"""Dice and cross entropy: configuration in, a function of logits and class indices out."""

from collections.abc import Callable

from jaxtyping import Float, Int
from monai.losses.dice import DiceLoss
from torch import Tensor
from torch.nn import functional

from common.study.losses import CrossEntropy, Dice, DiceCrossEntropy

Logits = Float[Tensor, "B C *space"]
Classes = Int[Tensor, "B *space"]
Scalar = Float[Tensor, ""]


def build_dice(config: Dice | DiceCrossEntropy) -> Callable[[Logits, Classes], Scalar]:
    """Build soft Dice; pooled over the batch, as a small structure may miss from a patch."""
    dice = DiceLoss(
        to_onehot_y=True, softmax=True, batch=True, include_background=config.include_background
    )

    def loss(logits: Logits, labels: Classes) -> Scalar:
        value: Tensor = dice(logits.float(), labels[:, None])
        return value

    return loss


def build_cross_entropy(_config: CrossEntropy) -> Callable[[Logits, Classes], Scalar]:
    """Build cross entropy, the mean over voxels."""

    def loss(logits: Logits, labels: Classes) -> Scalar:
        return functional.cross_entropy(logits.float(), labels)

    return loss


def build_dice_cross_entropy(config: DiceCrossEntropy) -> Callable[[Logits, Classes], Scalar]:
    """Build the weighted sum of the two."""
    dice = build_dice(config)
    entropy = build_cross_entropy(CrossEntropy())

    def loss(logits: Logits, labels: Classes) -> Scalar:
        return config.dice_weight * dice(
            logits, labels
        ) + config.cross_entropy_weight * entropy(logits, labels)

    return loss
