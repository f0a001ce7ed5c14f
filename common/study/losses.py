"""What a study may say of each loss; torch-free. The builders stand in ``common.losses``."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DiceCrossEntropy:
    """Weighted sum of soft Dice and cross entropy.

    Attributes:
        dice_weight: Factor of the Dice part.
        cross_entropy_weight: Factor of the cross entropy.
        include_background: Whether the Dice part scores the background too.
    """

    name: Literal["dice_ce"] = "dice_ce"
    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    include_background: bool = False

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong) for values that make no loss."""
        if self.dice_weight < 0 or self.cross_entropy_weight < 0:
            return [("dice_weight", "weights must not be negative")]
        if self.dice_weight + self.cross_entropy_weight == 0:
            return [("dice_weight", "both weights are 0, expected one above 0")]
        return []


@dataclass(frozen=True, kw_only=True)
class Dice:
    """Soft Dice over the whole batch.

    Attributes:
        include_background: Whether the background is scored too.
    """

    name: Literal["dice"] = "dice"
    include_background: bool = False

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross entropy, averaged over voxels."""

    name: Literal["cross_entropy"] = "cross_entropy"

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong); nothing can be."""
        return []


LossConfig = DiceCrossEntropy | Dice | CrossEntropy
