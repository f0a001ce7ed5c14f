"""The edges of the truth, for networks that draw edges beside their answer."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Drawn:
    """What a network that draws edges answers while it trains.

    Attributes:
        logits: Of the classes, (B, C, *space).
        edges: Logits of the edges, (B, 1, *space).
        weight: Of the edges' loss beside that of the classes.
    """

    logits: Tensor
    edges: Tensor
    weight: float


def edges_of(classes: Tensor) -> Tensor:
    """Return where a voxel has a face neighbour of another class, (B, *space), boolean.

    Args:
        classes: Class indices, (B, *space).
    """
    found = classes != classes  # noqa: PLR0124 - nowhere yet, of the same shape and place
    for axis in range(1, classes.ndim):
        length = classes.shape[axis] - 1
        changes = classes.narrow(axis, 1, length) != classes.narrow(axis, 0, length)
        found.narrow(axis, 0, length).logical_or_(changes)
        found.narrow(axis, 1, length).logical_or_(changes)
    return found


def edge_loss(drawn: Drawn, classes: Tensor, certain: Tensor) -> Tensor:
    """Return the weighted binary cross entropy of the edges that were drawn.

    Source: the third term of Sun et al. 2020, arXiv:2001.07645.

    Args:
        drawn: What the network answered.
        classes: Class indices, (B, *space).
        certain: Images whose every class is annotated, (B,) boolean: in others an edge that
            nobody drew would be taken for none.
    """
    rows = certain.nonzero()[:, 0]
    if not drawn.weight or not len(rows):
        return drawn.edges.new_zeros(())
    truth = edges_of(classes[rows]).float()
    logits = drawn.edges[rows, 0].float()
    share = len(rows) / len(certain)
    return drawn.weight * share * functional.binary_cross_entropy_with_logits(logits, truth)
