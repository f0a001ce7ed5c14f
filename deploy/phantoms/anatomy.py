"""A random upper abdomen as a map of tissues, in 2-D and in 3-D from the same numbers.

Labels and both modalities' images derive from this map; no image is another one recoloured.

The grid is RAS+: the first axis grows towards the patient's right, the second towards the
front, the third towards the head. The liver and the right kidney therefore lie at high first
indices and the spleen and the left kidney at low ones. Laterality is part of the task, so
nothing here mirrors.

The sizes make up about 7.4 % (liver), 2 % (spleen) and 1.2 % (each kidney) of a 2-D image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from deploy.phantoms.difficulty import Difficulty
from deploy.phantoms.shapes import (
    Axes,
    Blob,
    draw_waves,
    grid_axes,
    inside_mask,
    paint,
    shrunk,
)


class Tissue(IntEnum):
    """What a voxel is made of; a mimic has an organ's substance but is not that organ."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    VESSEL = 4
    BOWEL = 5
    LIVER = 6
    SPLEEN = 7
    LEFT_KIDNEY = 8
    RIGHT_KIDNEY = 9
    LIVER_MIMIC = 10
    SPLEEN_MIMIC = 11
    KIDNEY_MIMIC = 12


ORGANS: Mapping[str, Tissue] = MappingProxyType(
    {
        "liver": Tissue.LIVER,
        "spleen": Tissue.SPLEEN,
        "left_kidney": Tissue.LEFT_KIDNEY,
        "right_kidney": Tissue.RIGHT_KIDNEY,
    }
)


@dataclass(frozen=True)
class _Organ:
    """Where one organ lies and how large it is.

    Attributes:
        place: Centre as a fraction of the cavity's radii in plane, and of half the slab.
        radii: Mean semi-axes, in halves of the field of view.
        tilt_deg: Mean rotation in plane, in degrees.
    """

    place: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt_deg: float


# Painted in this order, so that a kidney dents the liver and not the other way round.
_ORGAN_PLANS: Mapping[Tissue, _Organ] = {
    Tissue.LIVER: _Organ((0.47, 0.22, 0.10), (0.345, 0.300, 0.85), 15.0),
    Tissue.SPLEEN: _Organ((-0.74, 0.12, 0.25), (0.120, 0.215, 0.60), 8.0),
    Tissue.LEFT_KIDNEY: _Organ((-0.46, -0.50, -0.12), (0.110, 0.142, 0.60), 15.0),
    Tissue.RIGHT_KIDNEY: _Organ((0.46, -0.52, -0.25), (0.110, 0.142, 0.60), -15.0),
}
_PLAIN_DISTRACTORS = (Tissue.FAT, Tissue.VESSEL, Tissue.MUSCLE)
_MIMICS = (Tissue.LIVER_MIMIC, Tissue.SPLEEN_MIMIC, Tissue.KIDNEY_MIMIC)

_BODY_RADII = (0.93, 0.78)
_FAT_RIM = (0.14, 0.22)  # of half the field of view: 4.5 to 7 voxels of 64
_MUSCLE_RING = (0.05, 0.08)
_CENTRE_SD = 0.035
_RADIUS_SPREAD = 0.12
_ANGLE_SD_DEG = 7.0
_WOBBLE = (0.08, 0.12)


def sample_anatomy(
    shape: Sequence[int], difficulty: Difficulty, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw one patient.

    Args:
        shape: Voxels along each axis, two or three numbers.
        difficulty: How many distractors, of what, and how large the organs.
        rng: Source of randomness; advanced.

    Returns:
        A map of ``Tissue`` values of the given shape.
    """
    axes = grid_axes(shape)
    tissue = np.full(tuple(shape), Tissue.AIR, dtype=np.uint8)
    cavity = _paint_trunk(tissue, axes, rng)
    within = inside_mask(cavity, axes)
    _paint_distractors(tissue, axes, cavity, difficulty, rng)
    _paint_spine(tissue, axes, cavity, rng)
    for kind, plan in _ORGAN_PLANS.items():
        blob = _draw_organ(plan, cavity, difficulty.organ_scale, rng)
        paint(tissue, blob, kind, axes, within)
    return tissue


def label_map(tissue: NDArray[np.uint8], labels: Sequence[str]) -> NDArray[np.uint8]:
    """Read the labels off a tissue map.

    Args:
        tissue: A map of ``Tissue`` values; not changed.
        labels: Names from ``ORGANS``; the first becomes 1, the second 2, and so on.

    Returns:
        A map of the same shape; 0 wherever none of these organs is.
    """
    table = np.zeros(len(Tissue), dtype=np.uint8)
    for number, name in enumerate(labels, start=1):
        table[ORGANS[name]] = number
    return table[tissue]


def _paint_trunk(tissue: NDArray[np.uint8], axes: Axes, rng: np.random.Generator) -> Blob:
    """Paint the fat rim, the muscle wall and the gut inside; return the cavity's outline."""
    through = (math.inf,) * (len(axes) - 2)
    stretch = rng.uniform(0.96, 1.03, size=2)
    body = Blob(
        centre=(*rng.normal(0.0, 0.01, size=2).tolist(), *(0.0 for _ in through)),
        radii=(_BODY_RADII[0] * stretch[0], _BODY_RADII[1] * stretch[1], *through),
        angle=math.radians(rng.normal(0.0, 2.0)),
        waves=draw_waves(0.03, 2, rng),
    )
    wall = shrunk(body, rng.uniform(*_FAT_RIM))
    cavity = shrunk(wall, rng.uniform(*_MUSCLE_RING))
    paint(tissue, body, Tissue.FAT, axes)
    paint(tissue, wall, Tissue.MUSCLE, axes)
    paint(tissue, cavity, Tissue.BOWEL, axes)
    return cavity


def _paint_spine(
    tissue: NDArray[np.uint8], axes: Axes, cavity: Blob, rng: np.random.Generator
) -> None:
    """Paint the vertebra with its muscles and, in front and to the left, the aorta."""
    through = (math.inf,) * (len(axes) - 2)
    depth = cavity.centre[1] - 0.78 * cavity.radii[1]
    x, y = rng.normal((0.0, depth), 0.012)
    still = tuple(0.0 for _ in through)
    psoas = Blob((x, y, *still), (0.25, 0.13, *through), waves=draw_waves(0.06, 2, rng))
    paint(tissue, psoas, Tissue.MUSCLE, axes)
    scale = rng.uniform(0.92, 1.08)
    bone = Blob((x, y, *still), (0.13 * scale, 0.11 * scale, *through))
    paint(tissue, bone, Tissue.BONE, axes)
    radius = rng.uniform(0.042, 0.055)
    aorta = Blob((x - 0.05, y + 0.11 * scale + radius, *still), (radius, radius, *through))
    paint(tissue, aorta, Tissue.VESSEL, axes)


def _paint_distractors(
    tissue: NDArray[np.uint8],
    axes: Axes,
    cavity: Blob,
    difficulty: Difficulty,
    rng: np.random.Generator,
) -> None:
    """Scatter blobs that are no organ; the organs, painted later, cover some of them."""
    dimensions = len(axes)
    least, most = difficulty.distractors
    kinds = _PLAIN_DISTRACTORS + (_MIMICS if difficulty.mimics else ())
    within = inside_mask(cavity, axes)
    for _ in range(int(rng.integers(least, most + 1)) * (dimensions - 1)):
        # More of them in front and to the left, where the organs leave room.
        place = rng.uniform((-0.75, -0.35), (0.45, 0.85))
        centre = np.asarray(cavity.centre[:2]) + place * np.asarray(cavity.radii[:2])
        blob = Blob(
            centre=(*centre.tolist(), *rng.uniform(-0.9, 0.9, size=dimensions - 2).tolist()),
            radii=(
                *rng.uniform(0.06, 0.13, size=2).tolist(),
                *rng.uniform(0.15, 0.45, size=dimensions - 2).tolist(),
            ),
            angle=rng.uniform(0.0, math.pi),
            waves=draw_waves(rng.uniform(*_WOBBLE), dimensions, rng),
        )
        paint(tissue, blob, kinds[int(rng.integers(len(kinds)))], axes, within)


def _draw_organ(plan: _Organ, cavity: Blob, scale: float, rng: np.random.Generator) -> Blob:
    """Draw one organ's place, size, tilt and outline around its plan."""
    dimensions = len(cavity.centre)
    frame = [*cavity.radii[:2], 1.0]
    centre = [
        middle + place * extent
        for middle, place, extent in zip(cavity.centre, plan.place, frame, strict=False)
    ]
    spread = rng.uniform(1.0 - _RADIUS_SPREAD, 1.0 + _RADIUS_SPREAD, size=dimensions)
    return Blob(
        centre=tuple((np.asarray(centre) + rng.normal(0.0, _CENTRE_SD, dimensions)).tolist()),
        radii=tuple((np.asarray(plan.radii[:dimensions]) * spread * scale).tolist()),
        angle=math.radians(plan.tilt_deg + rng.normal(0.0, _ANGLE_SD_DEG)),
        waves=draw_waves(rng.uniform(*_WOBBLE), dimensions, rng),
    )
