"""Random patches of prepared cases.

An image smaller than the patch is padded with 0, the mean of its normalised intensities: what
MONAI's sliding window pads with too, so that training and prediction see the same edge. The
label map is padded with background. Where the image lies within such a patch is random.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int16

from client.data.preprocessing import PreparedCase


def sample_patch(
    case: PreparedCase, size: tuple[int, ...], foreground: float, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "C *size"], Int16[np.ndarray, " *size"]]:
    """Cut one random patch.

    Args:
        case: Labelled and ready. Not modified.
        size: Voxels along each axis.
        foreground: Chance of a patch that contains a voxel of a structure, each structure
            present being as likely as another, at a random place within the patch; else, and
            where no structure is present, every place is as likely.
        rng: Drawn from.

    Returns:
        Image and label map, both new arrays.

    Raises:
        ValueError: If the case has no label map.
    """
    if case.label is None:
        raise ValueError("a patch to train on needs a label map")
    shape = case.label.shape
    lowest = [min(0, whole - part) for whole, part in zip(shape, size, strict=True)]
    highest = [max(0, whole - part) for whole, part in zip(shape, size, strict=True)]
    if case.foreground and rng.random() < foreground:
        voxels = case.foreground[rng.integers(len(case.foreground))]
        centre = np.unravel_index(int(voxels[rng.integers(len(voxels))]), shape)
        for axis, (at, part) in enumerate(zip(centre, size, strict=True)):
            lowest[axis] = max(lowest[axis], int(at) - part + 1)
            highest[axis] = min(highest[axis], int(at))
    start = [int(at) for at in rng.integers(lowest, highest, endpoint=True)]
    return _cut(case.image, start, size), _cut(case.label[None], start, size)[0]


def draw_batch(
    cases: Sequence[PreparedCase],
    *,
    size: tuple[int, ...],
    batch: int,
    foreground: float,
    rng: np.random.Generator,
) -> tuple[list[np.ndarray], list[np.ndarray], list[PreparedCase]]:
    """Cut patches of cases drawn uniformly, with replacement.

    Args:
        cases: At least one; each as :func:`sample_patch` wants it.
        size: Voxels along each axis.
        batch: How many patches.
        foreground: See :func:`sample_patch`.
        rng: Drawn from.

    Returns:
        Images, label maps, and the case of each.

    Raises:
        ValueError: If there is no case.
    """
    if not cases:
        raise ValueError("there is no case to draw from")
    chosen = [cases[i] for i in rng.integers(len(cases), size=batch)]
    patches = [sample_patch(case, size, foreground, rng) for case in chosen]
    return [image for image, _ in patches], [label for _, label in patches], chosen


def _cut(array: np.ndarray, start: Sequence[int], size: tuple[int, ...]) -> np.ndarray:
    """Copy a window that may reach beyond the array; what is outside is 0."""
    patch = np.zeros((array.shape[0], *size), dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for whole, first, part in zip(array.shape[1:], start, size, strict=True):
        low, high = max(0, first), min(whole, first + part)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    patch[tuple(target)] = array[tuple(source)]
    return patch
