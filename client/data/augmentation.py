"""Random changes of training patches, with MONAI's transforms.

The transforms are seeded anew for each patch from the caller's generator, so a patch depends on
that generator alone, not on what was augmented before or in which process.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from common.study import Augmentation, Study

Augment = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
LARGEST_ANISOTROPY = 2.0
KEYS = ("image", "label")


def build_augmentation(config: Augmentation, study: Study) -> Augment:
    """Return a function of image (C, *space), label map (*space) and generator.

    It returns new arrays of the same shapes and types, or its very input where nothing is to be
    changed. What a rotation brings in from outside is 0 in both, as in padded patches.

    Args:
        config: Ranges and chance of each change.
        study: A flip never swaps left and right if the study has lateral labels. Rotations are
            about the axis of the coarsest spacing only where spacings differ more than twofold:
            they act on voxels and would shear the anatomy otherwise.
    """
    steps = _steps(config, study)
    if not steps:
        return _unchanged
    from monai.transforms.compose import Compose

    compose = Compose(steps)

    def augment(
        image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        compose.set_random_state(seed=int(rng.integers(2**32)))
        changed = compose({"image": image, "label": label[None].astype(np.float32)})
        return (
            _plain(changed["image"]).astype(image.dtype),
            _plain(changed["label"])[0].astype(label.dtype),
        )

    return augment


def _unchanged(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    del rng
    return image, label


def _plain(array: Any) -> np.ndarray:
    """Take off MONAI's metadata."""
    from monai.utils.type_conversion import convert_to_numpy

    return np.array(convert_to_numpy(array))


def _steps(config: Augmentation, study: Study) -> list[Any]:
    if config.probability <= 0:
        return []
    return [*_spatial(config, study), *_intensity(config)]


def _spatial(config: Augmentation, study: Study) -> list[Any]:
    from monai.transforms.spatial.dictionary import RandAffined, RandFlipd

    chance = config.probability
    steps: list[Any] = []
    if config.rotation_degrees or config.scale:
        steps.append(
            RandAffined(
                keys=KEYS,
                prob=chance,
                rotate_range=_rotations(math.radians(config.rotation_degrees), study),
                scale_range=(config.scale,) * study.dimensions,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            )
        )
    axes = [axis for axis in config.flip_axes if axis != 0 or not study.has_sides]
    return steps + [RandFlipd(keys=KEYS, prob=chance, spatial_axis=axis) for axis in axes]


def _rotations(angle: float, study: Study) -> tuple[float, ...]:
    """Return the largest angle about each axis, radians; a slice has only one."""
    spacing = study.spacing_mm
    if study.dimensions == 2:  # noqa: PLR2004
        return (angle,)
    if spacing is None or max(spacing) <= LARGEST_ANISOTROPY * min(spacing):
        return (angle,) * 3
    coarsest = spacing.index(max(spacing))
    return tuple(angle if axis == coarsest else 0.0 for axis in range(3))


def _intensity(config: Augmentation) -> list[Any]:
    from monai.transforms.intensity.dictionary import (
        RandAdjustContrastd,
        RandGaussianNoised,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )

    chance = config.probability
    steps: list[Any] = []
    if config.gamma:
        gamma = (1 - config.gamma, 1 + config.gamma)
        steps.append(RandAdjustContrastd(keys="image", prob=chance, gamma=gamma))
    if config.contrast:
        steps.append(RandScaleIntensityd(keys="image", prob=chance, factors=config.contrast))
    if config.shift:
        steps.append(RandShiftIntensityd(keys="image", prob=chance, offsets=config.shift))
    if config.noise:
        steps.append(RandGaussianNoised(keys="image", prob=chance, std=config.noise))
    return steps
