"""Losses that are a mean over voxels: cross entropy, and what weighs its voxels.

Focal loss is ours: MONAI's divides by the number of classes, which the merging of labels
without annotation changes from site to site.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from common.losses.base import Classes, Logits, Loss, Scalar, Voxels, power, single
from common.losses.distances import border_closeness
from common.study.losses_voxel import (
    CrossEntropy,
    DistanceWeightedCrossEntropy,
    Focal,
    WeightedCrossEntropy,
)


def entropy_of(logits: Logits, classes: Classes) -> Voxels:
    """Return -log of the probability of each voxel's true class."""
    return functional.cross_entropy(logits, classes, reduction="none")


def weighted_mean(values: Voxels, weights: Voxels) -> Scalar:
    """Return the weighted mean; 0 where every weight is 0, as in a patch of one class."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-12)


def inverse_frequencies(classes: Classes, count: int) -> Float[Tensor, "C"]:
    """Return one weight a class, so that those in the batch count alike and average 1."""
    voxels = torch.bincount(classes.flatten(), minlength=count).float()
    there = voxels > 0
    return there * voxels.sum() / (there.sum() * voxels.clamp_min(1))


def build_cross_entropy(_config: CrossEntropy) -> Loss:
    """Build cross entropy, the mean over voxels."""
    return single(lambda logits, classes: entropy_of(logits, classes).mean())


def build_weighted_cross_entropy(config: WeightedCrossEntropy) -> Loss:
    """Build cross entropy, weighted by class."""

    def loss(
        logits: Logits,
        classes: Classes,
        progress: float = 0.0,  # noqa: ARG001
        kept: Sequence[int] | None = None,
    ) -> Scalar:
        count = logits.shape[1]
        if config.weights:
            own = [config.weights[c] for c in (range(count) if kept is None else kept)]
            weights = torch.tensor(own, device=logits.device)
        else:
            weights = inverse_frequencies(classes, count)
        return weighted_mean(entropy_of(logits.float(), classes), weights[classes])

    return loss


def build_distance_weighted_cross_entropy(config: DistanceWeightedCrossEntropy) -> Loss:
    """Build cross entropy, weighted by class and by how near two instances are."""

    def score(logits: Logits, classes: Classes) -> Scalar:
        near = border_closeness(classes.cpu().numpy(), config.border_width)
        weights = config.border_weight * torch.from_numpy(near).to(logits.device)
        if config.balanced:
            weights = weights + inverse_frequencies(classes, logits.shape[1])[classes]
        else:
            weights = weights + 1
        return weighted_mean(entropy_of(logits, classes), weights)

    return single(score)


def build_focal(config: Focal) -> Loss:
    """Build the focal loss, the mean over voxels."""

    def score(logits: Logits, classes: Classes) -> Scalar:
        entropy = entropy_of(logits, classes)
        values = power(-torch.expm1(-entropy), config.gamma) * entropy
        if config.alpha is not None:
            values = values * torch.where(classes > 0, config.alpha, 1 - config.alpha)
        return values.mean()

    return single(score)
