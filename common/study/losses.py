"""What a study may say of each loss; torch-free. The builders stand in ``common.losses``."""

from dataclasses import dataclass
from typing import Literal

from common.study.losses_ranges import WEIGHT, Problems, range_problems
from common.study.losses_region import (
    ClDice,
    Dice,
    DiceCrossEntropy,
    ExponentialLogarithmic,
    GeneralizedDice,
    Tversky,
    UnifiedFocal,
)
from common.study.losses_voxel import (
    Boundary,
    CrossEntropy,
    DistanceWeightedCrossEntropy,
    Focal,
    Hausdorff,
    WeightedCrossEntropy,
)

__all__ = [
    "Boundary",
    "ClDice",
    "CrossEntropy",
    "Dice",
    "DiceCrossEntropy",
    "DistanceWeightedCrossEntropy",
    "ExponentialLogarithmic",
    "Focal",
    "GeneralizedDice",
    "Hausdorff",
    "LossConfig",
    "Sum",
    "Term",
    "TermLoss",
    "Tversky",
    "UnifiedFocal",
    "WeightedCrossEntropy",
    "class_problems",
]

LARGEST_TERMS = 8
TermLoss = (
    DiceCrossEntropy
    | Dice
    | CrossEntropy
    | WeightedCrossEntropy
    | DistanceWeightedCrossEntropy
    | GeneralizedDice
    | Boundary
    | ExponentialLogarithmic
    | Focal
    | Tversky
    | UnifiedFocal
    | ClDice
    | Hausdorff
)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One loss of a sum, and its weight from the start of the training to its end.

    Attributes:
        loss: Any loss but another sum.
        weight: Factor at the start of the training, 0 or more. A term is not computed while
            its factor is 0.
        end_weight: Factor at the end of the last round, 0 or more; `null` for the same as at
            the start.
        between: `linear` goes evenly from one to the other, `constant` stays at `weight`.
    """

    loss: TermLoss
    weight: float = 1.0
    end_weight: float | None = None
    between: Literal["linear", "constant"] = "linear"

    def weight_at(self, progress: float) -> float:
        """Return the factor after this share, 0 to 1, of the whole training."""
        if self.end_weight is None:
            return self.weight
        return (1 - progress) * self.weight + progress * self.end_weight

    def problems(self) -> Problems:
        """Return (field, what is wrong) for the weights and for the loss."""
        ends = {"weight": WEIGHT} if self.end_weight is None else {}
        ends = ends or {"weight": WEIGHT, "end_weight": WEIGHT}
        found = range_problems(self, ends)
        if self.between == "constant" and self.end_weight not in (None, self.weight):
            what = f"is {self.end_weight}, which a constant weight of {self.weight} never is"
            found.append(("end_weight", what))
        return found + [(f"loss.{where}", what) for where, what in self.loss.problems()]


@dataclass(frozen=True, kw_only=True)
class Sum:
    """Weighted sum of other losses; the weights may change over the training.

    Attributes:
        terms: One to eight.
    """

    name: Literal["sum"] = "sum"
    terms: tuple[Term, ...]

    def problems(self) -> Problems:
        """Return (field, what is wrong) for each term, and for a sum that is empty."""
        if not 1 <= len(self.terms) <= LARGEST_TERMS:
            return [("terms", f"has {len(self.terms)} terms, expected 1 to {LARGEST_TERMS}")]
        found = [
            (f"terms.{i}.{where}", what)
            for i, term in enumerate(self.terms)
            for where, what in term.problems()
        ]
        for when, progress in (("start", 0.0), ("end", 1.0)):
            if not any(term.weight_at(progress) for term in self.terms):
                found.append(
                    ("terms", f"every weight is 0 at the {when}, expected one above 0")
                )
        return found


LossConfig = TermLoss | Sum


def class_problems(loss: LossConfig, classes: int) -> Problems:
    """Return (field, what is wrong) where a loss has something for each class, and miscounts.

    Args:
        loss: As the study has it.
        classes: The background and the labels.
    """
    if isinstance(loss, Sum):
        return [
            (f"terms.{i}.loss.{where}", what)
            for i, term in enumerate(loss.terms)
            for where, what in class_problems(term.loss, classes)
        ]
    if isinstance(loss, WeightedCrossEntropy) and len(loss.weights) not in (0, classes):
        what = f"expected {classes}: the background and each label, or none"
        return [("weights", f"has {len(loss.weights)} numbers, {what}")]
    return []
