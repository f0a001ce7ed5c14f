"""Deep supervision: the loss of every level that answers, whatever the loss."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional

from common.losses.edges import Drawn


def answers_of(output: Tensor | Sequence[Tensor] | Drawn) -> list[Tensor]:
    """Return what a network answered as a list, the finest level first."""
    if isinstance(output, Drawn):
        return [output.logits]
    return [output] if isinstance(output, Tensor) else list(output)


def deep_loss(
    loss: Callable[[Tensor, Tensor], Tensor], answers: Sequence[Tensor], classes: Tensor
) -> Tensor:
    """Return the mean of the levels' losses, each level with half the weight of a finer one.

    Lee et al. 2015, arXiv:1409.5185; the weights as in Isensee et al. 2021,
    doi:10.1038/s41592-020-01008-z.

    Args:
        loss: Logits (B, C, *space) and class indices (B, *space) to a scalar.
        answers: Logits of each level, the finest first.
        classes: At the finest level; coarser ones see the nearest voxel.
    """
    total = answers[0].new_zeros(())
    weights = [0.5**i for i in range(len(answers))]
    for weight, logits in zip(weights, answers, strict=True):
        sides = logits.shape[2:]
        seen = classes
        if sides != classes.shape[1:]:
            near = functional.interpolate(classes[:, None].float(), sides, mode="nearest-exact")
            seen = near[:, 0].long()
        total = total + weight / sum(weights) * loss(logits, seen)
    return total
