r"""How well a predicted structure agrees with the reference.

With P the predicted and G the reference voxels, :math:`|.|` a number of voxels and
:math:`d(p, \partial G)` the distance in mm from a surface voxel to the other surface:

* Dice :math:`2 |P \cap G| / (|P| + |G|)`
* VOE, volumetric overlap error :math:`1 - |P \cap G| / |P \cup G|`
* relative volume difference :math:`(|P| - |G|) / |G|`, signed: negative means too small
* ASSD, average symmetric surface distance: the mean over all surface voxels of both
* HD95, the 95th percentile Hausdorff distance: the larger of the two directed percentiles, as
  MONAI defines it; tools that pool both directions first give another number

A voxel is on the surface if it shares a face with the outside or with the image's edge.

Source: Taha and Hanbury. Metrics for evaluating 3D medical image segmentation. BMC Medical
Imaging 15:29, 2015. Heimann et al. Comparison and Evaluation of Methods for Liver Segmentation
from CT Datasets. IEEE TMI 28(8), 2009 (VOE, relative volume difference, ASSD).

A structure that one of the two lacks has no distance, and the libraries answer nan or infinity.
A nan that is dropped rewards the network that finds less, so the policy here is:

=============  ==========  =========================================================
reference      prediction  score
=============  ==========  =========================================================
present        present     as defined
present        empty       ``missed``: Dice 0, VOE 1, volume difference -1, distances
                           the image's diagonal; it stays in every mean
empty          present     ``spurious``: Dice 0, VOE 1, distances the image's diagonal;
                           volume difference nan, as there is no volume to relate to
empty          empty       ``absent``: nothing to score, every number nan; leave it out
                           of means and count it
=============  ==========  =========================================================
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Integer
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from monai.metrics.surface_distance import compute_average_surface_distance

from common.errors import InputError


@dataclass(frozen=True)
class LabelScore:
    """The agreement of one structure in one case.

    Attributes:
        dice: Overlap, 0 (none) to 1 (identical).
        hd95_mm: 95th percentile Hausdorff distance, in mm.
        assd_mm: Average symmetric surface distance, in mm.
        volume_difference: Signed, relative to the reference's volume; -1 if missed, nan if
            spurious.
        voe: Volumetric overlap error, 0 (identical) to 1.
        missed: The reference has the structure and the prediction does not.
        absent: Neither has it; every number is nan.
        spurious: The prediction has the structure and the reference does not.
    """

    dice: float
    hd95_mm: float
    assd_mm: float
    volume_difference: float
    voe: float
    missed: bool
    absent: bool
    spurious: bool


def score_label(
    prediction: Bool[np.ndarray, "*space"],
    reference: Bool[np.ndarray, "*space"],
    spacing_mm: tuple[float, ...],
) -> LabelScore:
    """Score one structure of one case.

    An axis of one voxel is dropped: in a single slice stored as (X, Y, 1) every voxel would
    otherwise lie on the surface.

    Args:
        prediction: Where the network sees the structure, 2-D or 3-D; not changed.
        reference: Where the annotator saw it, same shape; not changed.
        spacing_mm: Distance of voxel centres along each axis, in mm.

    Returns:
        The scores, after the policy at the top of this file.

    Raises:
        InputError: If the shapes differ, or the spacing is not one positive number per axis.
    """
    _check_geometry(prediction.shape, reference.shape, spacing_mm)
    predicted, present = bool(prediction.any()), bool(reference.any())
    if predicted and present:
        return _score_overlap(prediction, reference, spacing_mm)
    if not predicted and not present:
        return _without_overlap(math.nan, math.nan, math.nan, absent=True)
    diagonal_mm = math.hypot(
        *(voxels * step for voxels, step in zip(reference.shape, spacing_mm, strict=True))
    )
    if present:
        return _without_overlap(0.0, diagonal_mm, -1.0, missed=True)
    return _without_overlap(0.0, diagonal_mm, math.nan, spurious=True)


def dice_of_labels(
    prediction: Integer[np.ndarray, "*space"],
    reference: Integer[np.ndarray, "*space"],
    labels: Sequence[int],
) -> dict[int, float]:
    """Compute the Dice of every label in one pass over the voxels.

    Args:
        prediction: Label map; no value below 0. Not changed.
        reference: Label map of the same shape. Not changed.
        labels: The values to score; other values count as none of them.

    Returns:
        Dice by label, nan for a label that is in neither map (not 1: an absent structure is
        not a success).

    Raises:
        InputError: If the shapes differ or a value is negative.
    """
    if prediction.shape != reference.shape:
        raise InputError(
            f"label maps: shapes {prediction.shape} and {reference.shape}; expected the same"
        )
    first = prediction.astype(np.intp, copy=False).ravel()
    second = reference.astype(np.intp, copy=False).ravel()
    lowest = min(int(first.min(initial=0)), int(second.min(initial=0)), *labels, 0)
    if lowest < 0:
        raise InputError(f"label maps: hold {lowest}; expected values from 0 upwards")
    width = max(labels, default=0) + 1
    volumes = (
        np.bincount(first, minlength=width)[:width]
        + np.bincount(second, minlength=width)[:width]
    )
    shared = np.bincount(first[first == second], minlength=width)
    return {
        label: 2.0 * int(shared[label]) / int(volumes[label]) if volumes[label] else math.nan
        for label in labels
    }


def _check_geometry(
    shape: tuple[int, ...], other: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> None:
    if shape != other:
        raise InputError(
            f"masks: shapes {shape} and {other}; expected the same; resample one to the other"
        )
    if len(shape) not in (2, 3):
        raise InputError(f"masks: {len(shape)} axes; expected 2 or 3")
    if len(spacing_mm) != len(shape) or not all(0.0 < s < math.inf for s in spacing_mm):
        raise InputError(
            f"spacing_mm: {spacing_mm}; expected {len(shape)} positive numbers, one per axis"
        )


def _score_overlap(
    prediction: Bool[np.ndarray, "*space"],
    reference: Bool[np.ndarray, "*space"],
    spacing_mm: tuple[float, ...],
) -> LabelScore:
    """Score a structure that both have, with MONAI's functions where it has them."""
    kept = [axis for axis, voxels in enumerate(reference.shape) if voxels > 1]
    if len(kept) < 2:  # noqa: PLR2004 -- a line of voxels keeps its shape
        kept = list(range(reference.ndim))
    spacing = [spacing_mm[axis] for axis in kept]
    shape = [reference.shape[axis] for axis in kept]
    predicted = _as_one_hot(prediction.reshape(shape))
    expected = _as_one_hot(reference.reshape(shape))
    with warnings.catch_warnings():
        # MONAI 1.6 passes its own helper an argument that it has deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        hd95 = compute_hausdorff_distance(
            predicted, expected, include_background=True, percentile=95.0, spacing=spacing
        )
        assd = compute_average_surface_distance(
            predicted, expected, include_background=True, symmetric=True, spacing=spacing
        )
    volume = int(np.count_nonzero(reference))
    union = int(np.count_nonzero(prediction | reference))
    shared = int(np.count_nonzero(prediction & reference))
    return LabelScore(
        dice=float(compute_dice(predicted, expected, include_background=True)),
        hd95_mm=float(hd95),
        assd_mm=float(assd),
        volume_difference=int(np.count_nonzero(prediction)) / volume - 1.0,
        voe=1.0 - shared / union,
        missed=False,
        absent=False,
        spurious=False,
    )


def _without_overlap(
    dice: float,
    distance_mm: float,
    volume_difference: float,
    *,
    missed: bool = False,
    absent: bool = False,
    spurious: bool = False,
) -> LabelScore:
    """Compose the score of a structure that at least one of the two lacks."""
    return LabelScore(
        dice=dice,
        hd95_mm=distance_mm,
        assd_mm=distance_mm,
        volume_difference=volume_difference,
        voe=1.0 - dice,
        missed=missed,
        absent=absent,
        spurious=spurious,
    )


def _as_one_hot(mask: Bool[np.ndarray, "*space"]) -> Bool[torch.Tensor, "1 1 *space"]:
    """Copy a mask into the batch of one and the single channel that MONAI expects."""
    return torch.from_numpy(mask.copy())[None, None]
