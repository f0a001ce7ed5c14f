"""What a study may say of losses that are a mean over voxels; torch-free."""

from dataclasses import dataclass
from typing import Literal

from common.study.losses_ranges import SHARE, WEIGHT, Problems, range_problems


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross entropy, averaged over voxels."""

    name: Literal["cross_entropy"] = "cross_entropy"

    def problems(self) -> Problems:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class WeightedCrossEntropy:
    """Cross entropy, each voxel weighted by its class; the weighted mean over voxels.

    Where a site does not annotate a label, its voxels count as background and so does their
    weight.

    Attributes:
        weights: One weight a class, 0 or more, the background first, then the labels in their
            order; empty for the inverse frequency of each class in the batch.
    """

    name: Literal["weighted_cross_entropy"] = "weighted_cross_entropy"
    weights: tuple[float, ...] = ()

    def problems(self) -> Problems:
        """Return (field, what is wrong) for weights that teach nothing."""
        low, high = WEIGHT
        if any(not low <= weight <= high for weight in self.weights):
            found = list(self.weights)
            return [("weights", f"has {found}, expected {low:g} to {high:g} each")]
        if self.weights and sum(weight > 0 for weight in self.weights) < 2:  # noqa: PLR2004
            return [("weights", "needs two weights above 0; one class alone is no choice")]
        return []


@dataclass(frozen=True, kw_only=True)
class DistanceWeightedCrossEntropy:
    """Cross entropy that weighs the narrow gaps between two structures more.

    Instances are the connected components of each class. Expensive: one distance map an
    instance, patch and step on the CPU; about 0.04 s for four instances in 64³ voxels.

    Attributes:
        border_weight: Weight that a voxel between two touching instances gets on top of that
            of its class, 0 to 1000.
        border_width: Distance from instances over which it decays (the standard deviation of
            a Gaussian), voxels, 0.1 to 100.
        balanced: Whether a class weighs by its inverse frequency in the batch; otherwise 1.
    """

    name: Literal["distance_weighted_cross_entropy"] = "distance_weighted_cross_entropy"
    border_weight: float = 10.0
    border_width: float = 5.0
    balanced: bool = True

    def problems(self) -> Problems:
        """Return (field, what is wrong) for numbers out of range."""
        ranges = {"border_weight": (0.0, 1000.0), "border_width": (0.1, 100.0)}
        return range_problems(self, ranges)


@dataclass(frozen=True, kw_only=True)
class Focal:
    """Cross entropy in which voxels that are already right count less.

    Attributes:
        gamma: How much less: each voxel has the factor (1 - p) ** gamma, p the probability of
            its true class; 0 to 10, 0 for plain cross entropy.
        alpha: Factor of the voxels of structures, 0 to 1; the background gets 1 - alpha.
            `null` for no factors.
    """

    name: Literal["focal"] = "focal"
    gamma: float = 2.0
    alpha: float | None = None

    def problems(self) -> Problems:
        """Return (field, what is wrong) for numbers out of range."""
        ranges = {"gamma": (0.0, 10.0)}
        return range_problems(
            self, ranges if self.alpha is None else {**ranges, "alpha": SHARE}
        )


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Distance between boundaries, as the signed distance map of the truth sees it.

    Usually a term of a `sum` with a loss of regions, its weight growing: where a class is
    absent from a patch there is no boundary and the loss says nothing. Expensive: two distance
    maps a patch, class and step on the CPU; about 0.1 s for three classes in 64³ voxels.

    Attributes:
        include_background: Whether the background's boundary is scored too.
    """

    name: Literal["boundary"] = "boundary"
    include_background: bool = False

    def problems(self) -> Problems:
        """Return (field, what is wrong); nothing can be."""
        return []


@dataclass(frozen=True, kw_only=True)
class Hausdorff:
    """Squared error, weighted by distance from both boundaries, predicted and true.

    Hundreds where a network starts, near 1 later: in a `sum` its weight begins near 0.001.
    Expensive: four distance maps a patch, class and step on the CPU; about 0.2 s for three
    classes in 64³ voxels.

    Attributes:
        exponent: Of the distances, 0.5 to 4; larger ones look at the farthest error alone.
        include_background: Whether the background is scored too.
    """

    name: Literal["hausdorff"] = "hausdorff"
    exponent: float = 2.0
    include_background: bool = False

    def problems(self) -> Problems:
        """Return (field, what is wrong) for numbers out of range."""
        return range_problems(self, {"exponent": (0.5, 4.0)})
