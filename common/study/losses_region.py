"""What a study may say of losses that compare regions, and of the mixed ones; torch-free.

Regions are pooled over the batch unless said otherwise: a small structure misses from many a
patch, and the overlap of nothing with nothing teaches nothing.
"""

from dataclasses import dataclass
from typing import Literal

from common.study.losses_ranges import (
    SHARE,
    WEIGHT,
    Problems,
    none_above_0,
    range_problems,
)


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

    def problems(self) -> Problems:
        """Return (field, what is wrong) for values that make no loss."""
        if self.dice_weight < 0 or self.cross_entropy_weight < 0:
            return [("dice_weight", "weights must not be negative")]
        return none_above_0(self, "dice_weight", "cross_entropy_weight")


@dataclass(frozen=True, kw_only=True)
class Dice:
    """Soft Dice, the mean over classes.

    A class that is absent has almost no gradient, even where it is predicted; cross entropy
    beside it, as in `dice_ce`, has one.

    Attributes:
        include_background: Whether the background is scored too.
        squared: Whether the denominator sums squares, as in V-Net.
        jaccard: Whether it is intersection over union (Jaccard) in place of Dice.
        per_image: Whether each image is scored by itself, and the mean taken; otherwise the
            batch is one region.
    """

    name: Literal["dice"] = "dice"
    include_background: bool = False
    squared: bool = False
    jaccard: bool = False
    per_image: bool = False

    def problems(self) -> Problems:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class GeneralizedDice:
    """One soft Dice of all classes together, the small ones weighted up.

    A class that is absent weighs as much as the smallest that is there.

    Attributes:
        weighting: `square` weighs a class by 1 / voxels², `simple` by 1 / voxels, `uniform`
            by 1.
        include_background: Whether the background is one of the classes.
        per_image: Whether each image is scored by itself, and the mean taken; otherwise the
            batch is one region.
    """

    name: Literal["generalized_dice"] = "generalized_dice"
    weighting: Literal["square", "simple", "uniform"] = "square"
    include_background: bool = True
    per_image: bool = False

    def problems(self) -> Problems:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class Tversky:
    """Soft Dice with a factor of its own for each kind of error; 0.5 and 0.5 are Dice.

    Attributes:
        false_positives: Factor of voxels that are predicted and not there, 0 to 1.
        false_negatives: Factor of voxels that are there and not predicted, 0 to 1.
        include_background: Whether the background is scored too.
    """

    name: Literal["tversky"] = "tversky"
    false_positives: float = 0.3
    false_negatives: float = 0.7
    include_background: bool = False

    def problems(self) -> Problems:
        """Return (field, what is wrong) for factors that make no loss."""
        found = range_problems(self, {"false_positives": SHARE, "false_negatives": SHARE})
        return found or none_above_0(self, "false_positives", "false_negatives")


@dataclass(frozen=True, kw_only=True)
class ClDice:
    """Soft centreline Dice: whether skeletons lie in the other's region; for tubes and trees.

    It sees skeletons and little of the width around them: use it as a term of a `sum` with
    `dice`. Expensive: about 1 s for three classes in 64³ voxels on a CPU.

    Attributes:
        iterations: Erosions that find the skeleton, 1 to 50: at least the radius of the
            thickest tube in voxels.
    """

    name: Literal["cldice"] = "cldice"
    iterations: int = 3

    def problems(self) -> Problems:
        """Return (field, what is wrong) for numbers out of range."""
        return range_problems(self, {"iterations": (1, 50)})


@dataclass(frozen=True, kw_only=True)
class ExponentialLogarithmic:
    """Powers of the logarithms of soft Dice and of probability, small classes weighted up.

    Attributes:
        dice_weight: Factor of the Dice part.
        cross_entropy_weight: Factor of the part over voxels, in which a class weighs the
            square root of its inverse frequency in the batch.
        dice_exponent: Power of -log(Dice), 0.1 to 5; below 1 it also improves what is good.
        cross_entropy_exponent: Power of -log(probability), 0.1 to 5.
    """

    name: Literal["exponential_logarithmic"] = "exponential_logarithmic"
    dice_weight: float = 0.8
    cross_entropy_weight: float = 0.2
    dice_exponent: float = 0.3
    cross_entropy_exponent: float = 0.3

    def problems(self) -> Problems:
        """Return (field, what is wrong) for values that make no loss."""
        power = (0.1, 5.0)
        ranges = {"dice_weight": WEIGHT, "cross_entropy_weight": WEIGHT}
        ranges |= {"dice_exponent": power, "cross_entropy_exponent": power}
        found = range_problems(self, ranges)
        return found or none_above_0(self, "dice_weight", "cross_entropy_weight")


@dataclass(frozen=True, kw_only=True)
class UnifiedFocal:
    """Asymmetric unified focal loss: a focal cross entropy and a focal Tversky loss.

    Structures are enhanced and the background is suppressed.

    Attributes:
        focal_weight: Share of the cross entropy part, 0 to 1; the Tversky part has the rest.
        delta: Share of structures against the background in the cross entropy, and of missed
            against invented voxels in Tversky, 0 to 1.
        gamma: How strongly the background is suppressed and structures are enhanced, 0 to 0.9.
    """

    name: Literal["unified_focal"] = "unified_focal"
    focal_weight: float = 0.5
    delta: float = 0.6
    gamma: float = 0.5

    def problems(self) -> Problems:
        """Return (field, what is wrong) for numbers out of range."""
        ranges = {"focal_weight": SHARE, "delta": SHARE, "gamma": (0.0, 0.9)}
        return range_problems(self, ranges)
