"""How a network is trained at a site, beside its loss; torch-free."""

from dataclasses import dataclass
from typing import Literal

from common.study.losses_ranges import Problems, range_problems

NARROWEST = 3  # voxels a side before the last layer, which keeps 2: one alone has no norm


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """The loss alone."""

    name: Literal["supervised"] = "supervised"

    @property
    def smallest_side(self) -> int:
        """Fewest voxels a side that a patch must have; the network's own limits aside."""
        return 1

    def problems(self) -> Problems:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class SegAN:
    """The loss, plus what a critic tells apart; the critic stays at the site.

    Source: Xue et al. SegAN: Adversarial Network with Multi-scale L1 Loss for Medical Image
    Segmentation. Neuroinformatics 16, 2018. arXiv:1706.01805. The critic sees the image times
    the answer's probabilities and times the truth, one after another, for all structures at
    once; the distance is the mean absolute difference of both inputs and of every feature map
    of theirs. The network learns to make it small, the critic, after each of the network's
    steps, to make it large. A structure that a case's site does not annotate is in neither. The
    loss that a site reports holds the distance.

    Each site has a critic of its own, for all its modalities. It is never sent, averaged or
    part of a model; ``keep_optimizer: false`` forgets its optimiser after a round, not the
    critic.

    Attributes:
        weight: Factor of the distance in the network's loss, 0 to 100.
        width: Feature channels of the critic's first layer, doubled by each next one, 1 to 256.
        layers: Layers that halve the patch, 1 to 6, before one that does not: a side must be 3
            times 2 to the power of ``layers`` at least.
        learning_rate: Factor of the critic's learning rate, relative to the study's, whose
            schedule it follows, 0 to 100.
        clamp: Largest absolute value of the critic's parameters after a step, 0.0001 to 1.
    """

    name: Literal["segan"] = "segan"
    weight: float = 1.0
    width: int = 32
    layers: int = 3
    learning_rate: float = 1.0
    clamp: float = 0.05

    @property
    def smallest_side(self) -> int:
        """Fewest voxels a side that the critic can take."""
        return NARROWEST * int(2**self.layers)

    def problems(self) -> Problems:
        """Return (field, what is wrong)."""
        ranges = {
            "weight": (0.0, 100.0),
            "width": (1, 256),
            "layers": (1, 6),
            "learning_rate": (0.0, 100.0),
            "clamp": (1e-4, 1.0),
        }
        return range_problems(self, ranges)


SchemeConfig = Supervised | SegAN
