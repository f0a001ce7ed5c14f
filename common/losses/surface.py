"""Losses of surfaces: the boundary loss, and the Hausdorff distance by distance maps.

The boundary loss is ours. MONAI's map is 0 in the outermost voxels of a structure: one that is
a single voxel thin is then never rewarded, and to miss it costs nothing. And the constant that
makes a perfect match 0 is left out there.
"""

import torch
from monai.losses.hausdorff_loss import HausdorffDTLoss
from torch import Tensor

from common.losses.base import Classes, Logits, Loss, Scalar, one_hot_of, single
from common.losses.distances import signed_distances
from common.study.losses_voxel import Boundary, Hausdorff


def build_boundary(config: Boundary) -> Loss:
    r"""Build the boundary loss, never negative, in voxels.

    .. math:: E[\varphi \, (p - g)]

    with the signed distance from the true surface, the probability and the truth; the mean
    over voxels, classes and images.
    """
    first = 0 if config.include_background else 1

    def score(logits: Logits, classes: Classes) -> Scalar:
        truth = one_hot_of(classes, logits.shape[1])[:, first:]
        maps = signed_distances(truth.cpu().numpy() > 0)
        surplus = logits.softmax(1)[:, first:] - truth
        return (torch.from_numpy(maps).to(logits.device) * surplus).mean()

    return single(score)


def build_hausdorff(config: Hausdorff) -> Loss:
    """Build MONAI's Hausdorff loss; a prediction's surface is where it crosses 0.5."""
    module = HausdorffDTLoss(
        alpha=config.exponent,
        include_background=config.include_background,
        to_onehot_y=True,
        softmax=True,
    )

    def score(logits: Logits, classes: Classes) -> Scalar:
        value: Tensor = module(logits, classes[:, None])
        return value

    return single(score)
