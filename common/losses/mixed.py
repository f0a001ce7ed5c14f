"""Losses that mix regions and voxels in powers: exponential logarithmic, unified focal.

Both pool the batch into one region. Their roots are linear very near 0, where a root's slope
is infinite (:func:`~common.losses.base.power`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from common.losses.base import Classes, Logits, Loss, Scalar, one_hot_of, power, single
from common.losses.entropy import entropy_of, inverse_frequencies
from common.study.losses_region import ExponentialLogarithmic, UnifiedFocal

EMPTY_DICE = 1.0  # voxels added above and below, the paper's epsilon
EMPTY_TVERSKY = 1e-5  # likewise

Counts = Float[Tensor, "C"]


def build_exponential_logarithmic(config: ExponentialLogarithmic) -> Loss:
    r"""Build the exponential logarithmic loss.

    .. math:: w_D \, E_c[(-\ln D_c)^{\gamma_D}] + w_X \, E_x[\sqrt{1 / f} (-\ln p)^{\gamma_X}]

    Source: Wong et al. 3D segmentation with exponential logarithmic loss for highly
    unbalanced object sizes. MICCAI 2018. arXiv:1809.00076. The frequencies f are the batch's,
    not the data set's: a site tells nobody its own.
    """

    def score(logits: Logits, classes: Classes) -> Scalar:
        hit, false_positives, missed = _counts(logits, classes)
        wrong = false_positives + missed
        dice = (2 * hit + EMPTY_DICE) / (2 * hit + wrong + EMPTY_DICE)
        region = power(-dice.log(), config.dice_exponent).mean()
        entropy = power(entropy_of(logits, classes), config.cross_entropy_exponent)
        inverse = inverse_frequencies(classes, logits.shape[1])
        weights = (inverse * (inverse > 0).sum()).sqrt()
        voxels = (weights[classes] * entropy).mean()
        return config.dice_weight * region + config.cross_entropy_weight * voxels

    return single(score)


def build_unified_focal(config: UnifiedFocal) -> Loss:
    r"""Build the asymmetric unified focal loss.

    .. math:: \lambda L_{focal} + (1 - \lambda) L_{Tversky}

    Source: Yeung et al. Unified focal loss. Computerized Medical Imaging and Graphics 95,
    2022. arXiv:2102.04525. Every structure is a rare class there, the background the other.
    Ours: MONAI's takes two classes only, wants probabilities where its documentation says
    logits, and halves the focal part.
    """
    delta, gamma = config.delta, config.gamma

    def score(logits: Logits, classes: Classes) -> Scalar:
        entropy = entropy_of(logits, classes)
        suppressed = (1 - delta) * power(-torch.expm1(-entropy), gamma) * entropy
        focal = torch.where(classes > 0, delta * entropy, suppressed).mean()
        hit, false_positives, missed = _counts(logits, classes)
        wrong = delta * missed + (1 - delta) * false_positives
        error = wrong / (hit + wrong + EMPTY_TVERSKY)
        tversky = torch.cat([error[:1], power(error[1:], 1 - gamma)]).mean()
        return config.focal_weight * focal + (1 - config.focal_weight) * tversky

    return single(score)


def _counts(logits: Logits, classes: Classes) -> tuple[Counts, Counts, Counts]:
    """Return soft counts of true positives, false positives and false negatives, by class."""
    truth, found = one_hot_of(classes, logits.shape[1]), logits.softmax(1)
    pooled = [axis for axis in range(truth.ndim) if axis != 1]
    false_positives = ((1 - truth) * found).sum(pooled)
    return (truth * found).sum(pooled), false_positives, (truth * (1 - found)).sum(pooled)
