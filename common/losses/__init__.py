"""The losses that a study can name, and what partial labels do to all of them."""

from collections.abc import Callable

from torch import Tensor

from common.catalogue import Catalogue, Entry
from common.losses.overlap import build_cross_entropy, build_dice, build_dice_cross_entropy
from common.study.losses import CrossEntropy, Dice, DiceCrossEntropy, LossConfig

LOSSES = Catalogue(
    "loss",
    (
        Entry(
            DiceCrossEntropy,
            build_dice_cross_entropy,
            "soft Dice plus cross entropy",
            "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
        ),
        Entry(
            Dice,
            build_dice,
            "soft Dice over the whole batch",
            "Milletari et al. 2016, arXiv:1606.04797",
        ),
        Entry(
            CrossEntropy,
            build_cross_entropy,
            "cross entropy over voxels",
            "Ronneberger et al. 2015, arXiv:1505.04597",
        ),
    ),
)

Loss = Callable[[Tensor, Tensor], Tensor]


def build_loss(config: LossConfig) -> Loss:
    """Build a loss: logits (B, C, *space) and class indices (B, *space) to a scalar."""
    loss: Loss = LOSSES.build(config)
    return loss
