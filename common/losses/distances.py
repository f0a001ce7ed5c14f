"""Distance maps of label maps, in voxels: NumPy and SciPy, on the CPU."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

NEGLIGIBLE = 1e-7  # of a Gaussian's height: nothing in float32 beside a weight of 1


def signed_distances(
    masks: Bool[np.ndarray, "B C *space"],
) -> Float[np.ndarray, "B C *space"]:
    """Return the distance of each voxel from each mask's surface, negative inside.

    The surface lies half-way between the centres of a voxel inside and one outside, so that
    a structure one voxel thin has an inside too. A mask that is empty or full has no surface
    and gets 0.
    """
    maps = np.zeros(masks.shape, np.float32)
    for place in np.ndindex(masks.shape[:2]):
        mask = masks[place]
        if mask.any() and not mask.all():
            inside = ndimage.distance_transform_edt(mask)
            outside = ndimage.distance_transform_edt(~mask)
            maps[place] = np.where(mask, 0.5 - inside, outside - 0.5)
    return maps


def border_closeness(
    classes: Int[np.ndarray, "B *space"], width: float
) -> Float[np.ndarray, "B *space"]:
    r"""Return how near each voxel is to two instances, 0 to 1.

    .. math:: \exp\left(-\frac{(d_1 + d_2)^2}{2 \sigma^2}\right)

    with the distances to the nearest and the second nearest instance, 0 inside one.
    Ronneberger et al. 2015, arXiv:1505.04597, equation 2.

    Args:
        classes: True classes; instances are the connected components of each above 0.
        width: The standard deviation, voxels.
    """
    maps = [_closeness(image, width) for image in classes]
    return np.stack(maps).astype(np.float32)


def _closeness(image: Int[np.ndarray, "*space"], width: float) -> Float[np.ndarray, "*space"]:
    nearest = np.full(image.shape, np.inf)
    second = np.full(image.shape, np.inf)
    reach = int(np.ceil(width * np.sqrt(-2 * np.log(NEGLIGIBLE))))
    for c in np.unique(image[image > 0]):
        parts, _ = ndimage.label(image == c)
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            # Beyond reach an instance adds nothing, so its map need not cover the patch.
            at = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
            own = ndimage.distance_transform_edt(parts[at] != number)
            second[at] = np.minimum(second[at], np.maximum(nearest[at], own))
            nearest[at] = np.minimum(nearest[at], own)
    return np.asarray(np.exp(-((nearest + second) ** 2) / (2 * width**2)))
