"""What every loss is: one signature, float32 inside, and a power that is finite at zero."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Logits = Float[Tensor, "B C *space"]
Classes = Int[Tensor, "B *space"]
Voxels = Float[Tensor, "B *space"]
Scalar = Float[Tensor, ""]
Score = Callable[[Logits, Classes], Scalar]
NEAR_ZERO = 1e-4  # float32 rounds a Dice near 1 by 1e-7, and this is far above


class Loss(Protocol):
    """A loss as the training calls it; it has no parameters and remembers nothing."""

    def __call__(
        self,
        logits: Logits,
        classes: Classes,
        progress: float = 0.0,
        kept: Sequence[int] | None = None,
    ) -> Scalar:
        """Return the loss in float32.

        Args:
            logits: Of any floating type.
            classes: True class of each voxel, 0 to C - 1, int64.
            progress: Share of the whole training that is done, 0 to 1.
            kept: Which of the study's classes the C channels are, where labels without
                annotation were merged into the background; none for all of them.
        """


def single(score: Score) -> Loss:
    """Make a loss of what needs neither progress nor the identity of the classes.

    It computes in float32 whatever precision the network has: a sum over a patch's voxels
    stops growing in bfloat16.
    """

    def loss(
        logits: Logits,
        classes: Classes,
        progress: float = 0.0,  # noqa: ARG001
        kept: Sequence[int] | None = None,  # noqa: ARG001
    ) -> Scalar:
        with torch.autocast(logits.device.type, enabled=False):
            return score(logits.float(), classes)

    return loss


def one_hot_of(classes: Classes, count: int) -> Logits:
    """Return 1.0 in the channel of the true class of each voxel, 0.0 in the others."""
    return functional.one_hot(classes, count).movedim(-1, 1).float()


def power(x: Tensor, exponent: float) -> Tensor:
    """Return x ** exponent for x from 0 on, linear below 0.0001.

    A root has an infinite slope at 0, which is where a perfect match stands; here the slope
    there is ``0.0001 ** (exponent - 1)``, and 0 stays 0.
    """
    x = x.clamp_min(0)
    return x * x.clamp_min(NEAR_ZERO) ** (exponent - 1)
