"""The losses that a study can name, and what partial labels do to all of them."""

from collections.abc import Sequence

import torch

from common.catalogue import Catalogue, Entry
from common.losses.base import Classes, Logits, Loss, Scalar
from common.losses.entropy import (
    build_cross_entropy,
    build_distance_weighted_cross_entropy,
    build_focal,
    build_weighted_cross_entropy,
)
from common.losses.mixed import build_exponential_logarithmic, build_unified_focal
from common.losses.overlap import (
    build_dice,
    build_dice_cross_entropy,
    build_generalized_dice,
    build_tversky,
)
from common.losses.skeleton import build_cldice
from common.losses.surface import build_boundary, build_hausdorff
from common.study.losses import LossConfig, Sum
from common.study.losses_region import (
    ClDice,
    Dice,
    DiceCrossEntropy,
    ExponentialLogarithmic,
    GeneralizedDice,
    Tversky,
    UnifiedFocal,
)
from common.study.losses_voxel import (
    Boundary,
    CrossEntropy,
    DistanceWeightedCrossEntropy,
    Focal,
    Hausdorff,
    WeightedCrossEntropy,
)

__all__ = ["LOSSES", "Loss", "build_loss"]


def build_loss(config: LossConfig) -> Loss:
    """Build a loss: logits (B, C, *space) and class indices (B, *space) to a scalar."""
    loss: Loss = LOSSES.build(config)
    return loss


def build_sum(config: Sum) -> Loss:
    """Build the weighted sum; a term whose weight is 0 at the moment costs nothing."""
    parts = [(term, build_loss(term.loss)) for term in config.terms]

    def loss(
        logits: Logits,
        classes: Classes,
        progress: float = 0.0,
        kept: Sequence[int] | None = None,
    ) -> Scalar:
        total = logits.new_zeros((), dtype=torch.float32)
        for term, part in parts:
            weight = term.weight_at(progress)
            if weight:
                total = total + weight * part(logits, classes, progress, kept)
        return total

    return loss


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
            "soft Dice or Jaccard over the whole batch, or by image",
            "Milletari et al. 2016, arXiv:1606.04797; squares in section 3 there",
        ),
        Entry(
            CrossEntropy,
            build_cross_entropy,
            "cross entropy over voxels",
            "Ronneberger et al. 2015, arXiv:1505.04597, equation 1 without its weights",
        ),
        Entry(
            WeightedCrossEntropy,
            build_weighted_cross_entropy,
            "cross entropy with a weight a class, given or by inverse frequency",
            "Ronneberger et al. 2015, arXiv:1505.04597, equation 1, weights of classes only",
        ),
        Entry(
            DistanceWeightedCrossEntropy,
            build_distance_weighted_cross_entropy,
            "cross entropy that weighs gaps between structures",
            "Ronneberger et al. 2015, arXiv:1505.04597, equations 1 and 2",
        ),
        Entry(
            GeneralizedDice,
            build_generalized_dice,
            "one Dice of all classes, small ones weighted up",
            "Sudre et al. 2017, arXiv:1707.03237",
        ),
        Entry(
            Boundary,
            build_boundary,
            "distance between boundaries, by the truth's signed distance map",
            "Kervadec et al. 2019, arXiv:1812.07032",
        ),
        Entry(
            ExponentialLogarithmic,
            build_exponential_logarithmic,
            "powers of log Dice and of cross entropy, small classes weighted up",
            "Wong et al. 2018, arXiv:1809.00076",
        ),
        Entry(
            Focal,
            build_focal,
            "cross entropy in which easy voxels count less",
            "Lin et al. 2017, arXiv:1708.02002, equations 4 and 5",
        ),
        Entry(
            Tversky,
            build_tversky,
            "soft Dice with a factor for each kind of error",
            "Salehi et al. 2017, arXiv:1706.05721",
        ),
        Entry(
            UnifiedFocal,
            build_unified_focal,
            "asymmetric focal cross entropy plus focal Tversky",
            "Yeung et al. 2022, arXiv:2102.04525",
        ),
        Entry(
            ClDice,
            build_cldice,
            "soft centreline Dice, for tubes; in a sum with dice",
            "Shit et al. 2021, arXiv:2003.07311, algorithms 1 and 2",
        ),
        Entry(
            Hausdorff,
            build_hausdorff,
            "squared error weighted by both distance maps",
            "Karimi and Salcudean 2019, arXiv:1904.10030",
        ),
        Entry(
            Sum,
            build_sum,
            "weighted terms of the others, the weights changing over the training",
            "a schedule of weights as in Kervadec et al. 2019, arXiv:1812.07032",
        ),
    ),
)
