"""Soft centreline Dice.

Source: Shit et al. clDice: a novel topology-preserving loss function for tubular structure
segmentation. CVPR 2021. arXiv:2003.07311, equation 1 and algorithms 1 and 2. The paper has one
structure; MONAI, whose class does the work, pools several into one ratio, in which the largest
one hides the others. Here each structure of each image is scored by itself.
"""

from monai.losses.cldice import SoftclDiceLoss
from torch import Tensor

from common.losses.base import Classes, Logits, Loss, Scalar, one_hot_of, single
from common.study.losses_region import ClDice


def build_cldice(config: ClDice) -> Loss:
    """Build soft centreline Dice, the mean over images and classes above 0."""
    module = SoftclDiceLoss(iter_=config.iterations)

    def score(logits: Logits, classes: Classes) -> Scalar:
        truth = one_hot_of(classes, logits.shape[1])[:, 1:]
        found = logits.softmax(1)[:, 1:]
        value: Tensor = module(_apart(found), _apart(truth))
        return value

    return single(score)


def _apart(x: Logits) -> Logits:
    """Make each class an image of its own: (B, C, *space) to (B * C, 1, *space)."""
    return x.flatten(0, 1)[:, None]
