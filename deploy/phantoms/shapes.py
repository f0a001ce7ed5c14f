"""Ellipses and ellipsoids with a gently irregular boundary, painted into a label map.

One code serves 2-D and 3-D. Coordinates are fractions of half the field of view: every axis
runs from -1 to 1, whatever the number of voxels and their spacing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Axes = tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class Wave:
    """One term of a boundary's wobble: ``height * sin(vector . direction + phase)``."""

    height: float
    vector: tuple[float, ...]
    phase: float


@dataclass(frozen=True)
class Blob:
    """An ellipse or ellipsoid whose boundary wobbles.

    Attributes:
        centre: One coordinate per axis, in halves of the field of view.
        radii: Semi-axes before rotation, in the same unit; infinite along an axis that the
            shape runs through from end to end.
        angle: Rotation in the plane of the first two axes, in radians.
        waves: Terms of the wobble, as fractions of the radius.
    """

    centre: tuple[float, ...]
    radii: tuple[float, ...]
    angle: float = 0.0
    waves: tuple[Wave, ...] = ()


def grid_axes(shape: Sequence[int]) -> Axes:
    """Return the coordinates of the voxel centres along each axis, all within (-1, 1)."""
    return tuple((np.arange(n) + 0.5) * 2.0 / n - 1.0 for n in shape)


def draw_waves(size: float, dimensions: int, rng: np.random.Generator) -> tuple[Wave, ...]:
    """Draw a low-order wobble, one term for each of the orders 2, 3 and 4.

    A sine of a linear form of the direction is smooth on the circle and on the sphere alike,
    which a Fourier series in the angle is not.

    Args:
        size: Twice the height of each term, as a fraction of the radius.
        dimensions: 2 or 3.
        rng: Source of randomness; advanced.
    """
    waves = []
    for order in (2.0, 3.0, 4.0):
        vector = rng.normal(size=dimensions)
        vector *= order / max(float(np.linalg.norm(vector)), 1e-9)
        phase = rng.uniform(0.0, 2.0 * math.pi)
        waves.append(Wave(size / 2.0, tuple(vector.tolist()), float(phase)))
    return tuple(waves)


def shrunk(blob: Blob, by: float) -> Blob:
    """Return the same shape with every finite radius made shorter by ``by``."""
    return replace(blob, radii=tuple(max(radius - by, 1e-3) for radius in blob.radii))


def paint(
    target: NDArray[np.uint8],
    blob: Blob,
    value: int,
    axes: Axes,
    within: NDArray[np.bool_] | None = None,
) -> None:
    """Set ``target`` to ``value`` inside a shape.

    Args:
        target: Label map; changed in place.
        blob: The shape.
        value: What to write.
        axes: The map's coordinates, from ``grid_axes``.
        within: Where painting is allowed, with the shape of ``target``; everywhere if ``None``.
    """
    box = _bounding_box(blob, axes)
    inside = _is_inside(blob, tuple(axis[part] for axis, part in zip(axes, box, strict=True)))
    if within is not None:
        inside = inside & within[box]
    view = target[box]
    view[np.broadcast_to(inside, view.shape)] = value


def inside_mask(blob: Blob, axes: Axes) -> NDArray[np.bool_]:
    """Return the voxels inside a shape, as a mask over the whole grid."""
    shape = tuple(axis.size for axis in axes)
    return np.broadcast_to(_is_inside(blob, axes), shape)


def _bounding_box(blob: Blob, axes: Axes) -> tuple[slice, ...]:
    """Return the part of the grid that the shape can reach; most organs are small."""
    swell = 1.0 + sum(abs(wave.height) for wave in blob.waves)
    in_plane = max(blob.radii[:2])
    reach = [in_plane, in_plane, *blob.radii[2:]]
    return tuple(
        slice(
            int(np.searchsorted(axis, middle - radius * swell)),
            int(np.searchsorted(axis, middle + radius * swell, side="right")),
        )
        for axis, middle, radius in zip(axes, blob.centre, reach, strict=True)
    )


def _is_inside(blob: Blob, axes: Axes) -> NDArray[np.bool_]:
    """Compare the distance from the centre with the wobbling radius, in the shape's own frame.

    Along an axis of infinite radius the answer has length 1 and is meant to be broadcast.
    """
    offsets = np.meshgrid(*axes, indexing="ij", sparse=True)
    x, y, *others = (
        offset - middle for offset, middle in zip(offsets, blob.centre, strict=True)
    )
    cos, sin = math.cos(blob.angle), math.sin(blob.angle)
    turned = [cos * x + sin * y, cos * y - sin * x, *others]
    scaled = [
        part / radius
        for part, radius in zip(turned, blob.radii, strict=True)
        if math.isfinite(radius)
    ]
    distance = np.sqrt(sum(part**2 for part in scaled))
    outwards = [part / np.maximum(distance, 1e-9) for part in scaled]
    boundary: NDArray[np.float64] = np.ones_like(distance)
    for wave in blob.waves:
        projection = sum(w * part for w, part in zip(wave.vector, outwards, strict=False))
        boundary += wave.height * np.sin(projection + wave.phase)
    result: NDArray[np.bool_] = np.asarray(distance <= boundary)
    missing = len(axes) - result.ndim
    return result.reshape(result.shape + (1,) * missing)
