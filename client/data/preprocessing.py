r"""From a case as read to network input, and from network output back to the case's own grid.

Resampling keeps the field of view: :math:`n' = \max(1, \mathrm{round}(n s / s'))` voxels for
spacing :math:`s` to :math:`s'`, edges on edges (``align_corners=False``), so a voxel's centre
:math:`i` lands at :math:`(i + 1/2) n'/n - 1/2`. Images are interpolated linearly, without
smoothing before a coarser grid; label maps by the largest of the linearly interpolated
indicator functions of the classes.

Intensities: CT (``hounsfield``) is clipped to the study's window and z-scored with statistics
of labelled voxels pooled over all sites. Source: Isensee et al. nnU-Net. Nature Methods 18,
2021, doi:10.1038/s41592-020-01008-z, on intensity normalisation; theirs clips to pooled
percentiles instead. Anything else (``arbitrary``) is z-scored image by image, channel by
channel, over its own foreground: voxels above a tenth of the way from the darkest half percent
to the brightest one. This drops air and padding where there is any, keeps nearly all of a crop
that has none, and does not change when the scanner's scale and offset do. Otsu's threshold was
not taken: it would drop the darker half of a crop without air.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int16, Integer
from torch.nn import functional

from client.data.dataset import CaseFiles
from client.data.reading import Geometry, RawCase
from common.study import Study

LARGEST_FOREGROUND = 10_000  # voxels a class that patches are centred on
DARK_PERCENT, BRIGHT_PERCENT = 0.5, 99.0
AIR_FRACTION = 0.1
SMALLEST_STD = 1e-6


@dataclass(eq=False)
class PreparedCase:
    """One case as network input.

    Attributes:
        files: Where it came from.
        image: At the study's spacing, in RAS order; z-scored if ``ready``.
        label: Class indices at the study's spacing.
        reference: Class indices on the case's own grid, in RAS order, to be measured against.
        geometry: Of the case's own grid.
        foreground: Flat indices into ``label``, one array for each structure present, at most
            10,000 each.
        ready: Whether intensities are final; not before the pooled statistics are known for
            ``hounsfield``.
    """

    files: CaseFiles
    image: Float32[np.ndarray, "C *space"]
    label: Int16[np.ndarray, " *space"] | None
    reference: Int16[np.ndarray, " *original"] | None
    geometry: Geometry
    foreground: tuple[Integer[np.ndarray, " N"], ...]
    ready: bool


@dataclass(frozen=True)
class IntensitySums:
    """What a site tells of its intensities: three sums that can be added over sites.

    Attributes:
        count: Voxels.
        total: Sum of their intensities.
        squares: Sum of the squares.
    """

    count: int
    total: float
    squares: float

    def __add__(self, other: "IntensitySums") -> "IntensitySums":
        return IntensitySums(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )


def prepare(raw: RawCase, study: Study) -> PreparedCase:
    """Resample a case and normalise its intensities as far as it can be done alone.

    Args:
        raw: Not modified.
        study: Gives spacing, windows and kinds of intensity.
    """
    modality = study.modalities[raw.files.modality]
    shape = _shape_at(raw.geometry, study)
    image = np.stack([_resampled(channel, shape) for channel in raw.image])
    if modality.window is not None:
        np.clip(image, *modality.window, out=image)
    if modality.intensity == "arbitrary":
        for channel in image:
            _normalise_alone(channel)
    label = None if raw.label is None else _resampled_label(raw.label, shape)
    return PreparedCase(
        files=raw.files,
        image=image,
        label=label,
        reference=raw.label,
        geometry=raw.geometry,
        foreground=() if label is None else _foreground_indices(label),
        ready=modality.intensity == "arbitrary",
    )


def intensity_sums(prepared: PreparedCase) -> tuple[IntensitySums, ...]:
    """Sum the clipped intensities of the labelled voxels, channel by channel.

    Raises:
        ValueError: If the case's intensities are already normalised.
    """
    if prepared.ready:
        raise ValueError("the case is already normalised; sums are taken before finish()")
    if prepared.label is None:
        return tuple(IntensitySums(0, 0.0, 0.0) for _ in prepared.image)
    labelled = prepared.label > 0
    sums: list[IntensitySums] = []
    for channel in prepared.image:
        values = channel[labelled].astype(np.float64)
        sums.append(
            IntensitySums(values.size, float(values.sum()), float(np.square(values).sum()))
        )
    return tuple(sums)


def pooled(sums: IntensitySums | Iterable[IntensitySums]) -> tuple[float, float]:
    """Return mean and standard deviation of one channel over all that was summed.

    Returns:
        ``(0, 1)`` where nothing was summed; the deviation is never 0, but 1 instead.
    """
    if not isinstance(sums, IntensitySums):
        sums = sum(sums, IntensitySums(0, 0.0, 0.0))
    if sums.count == 0:
        return 0.0, 1.0
    mean = sums.total / sums.count
    std = math.sqrt(max(0.0, sums.squares / sums.count - mean**2))
    return mean, std if std > SMALLEST_STD else 1.0


def finish(
    prepared: PreparedCase, statistics: tuple[tuple[float, float], ...] | None
) -> PreparedCase:
    """Return the case with final intensities; one that has them comes back as it is.

    Args:
        prepared: Not modified.
        statistics: Pooled mean and standard deviation of each channel; needed for
            ``hounsfield`` only.

    Raises:
        ValueError: If statistics are needed and are not there for each channel.
    """
    if prepared.ready:
        return prepared
    if statistics is None or len(statistics) != len(prepared.image):
        raise ValueError(
            "pooled statistics are needed, a mean and a deviation for each channel"
        )
    shape = (-1,) + (1,) * (prepared.image.ndim - 1)
    mean, std = np.array(statistics, dtype=np.float32).T
    image = (prepared.image - mean.reshape(shape)) / std.reshape(shape)
    return replace(prepared, image=image, ready=True)


def restore(
    scores: Float32[np.ndarray, "K *space"], geometry: Geometry
) -> Int16[np.ndarray, " *original"]:
    """Turn scores at the study's spacing into class indices on the case's own grid.

    Args:
        scores: One map a class, the background first; logits or probabilities. Not modified.
        geometry: Of the case.

    Returns:
        The index of the largest score, the lower index where two are equal, in RAS order.
    """
    maps = ((k, scores[k]) for k in range(len(scores)))
    return _largest(maps, geometry.canonical_shape)


def _shape_at(geometry: Geometry, study: Study) -> tuple[int, ...]:
    if study.spacing_mm is None:
        return geometry.canonical_shape
    sides = zip(
        geometry.canonical_shape, geometry.canonical_spacing_mm, study.spacing_mm, strict=True
    )
    return tuple(max(1, round(voxels * old / new)) for voxels, old, new in sides)


def _resampled(
    array: Float32[np.ndarray, " *space"], shape: tuple[int, ...]
) -> Float32[np.ndarray, " *shape"]:
    """Interpolate linearly; always a new array."""
    copy = np.array(array, dtype=np.float32)
    if array.shape == shape:
        return copy
    mode = "trilinear" if copy.ndim == 3 else "bilinear"  # noqa: PLR2004
    with torch.no_grad():
        tensor = torch.from_numpy(copy)[None, None]
        result = functional.interpolate(tensor, size=shape, mode=mode, align_corners=False)
    return np.asarray(result[0, 0].numpy())


def _largest(
    maps: Iterator[tuple[int, np.ndarray]], shape: tuple[int, ...]
) -> Int16[np.ndarray, " *shape"]:
    """Resample one map after another and keep the index of the largest: memory of two maps."""
    first, scores = next(maps)
    best, index = _resampled(scores, shape), np.full(shape, first, dtype=np.int16)
    for k, scores in maps:
        candidate = _resampled(scores, shape)
        is_larger = candidate > best
        np.copyto(best, candidate, where=is_larger)
        index[is_larger] = k
    return index


def _resampled_label(
    label: Int16[np.ndarray, " *space"], shape: tuple[int, ...]
) -> Int16[np.ndarray, " *shape"]:
    if label.shape == shape:
        return label.copy()
    present = np.unique(label)
    return _largest(((int(k), label == k) for k in present), shape)


def _normalise_alone(channel: Float32[np.ndarray, " *space"]) -> None:
    """Z-score one channel in place over its own foreground."""
    values = channel[image_foreground(channel)]
    std = float(values.std(dtype=np.float64))
    if std <= SMALLEST_STD * max(1.0, float(np.abs(values).max())):
        values = channel
        std = float(values.std(dtype=np.float64)) or 1.0
    channel -= np.float32(values.mean(dtype=np.float64))
    channel /= np.float32(std)


def image_foreground(channel: Float32[np.ndarray, " *space"]) -> Bool[np.ndarray, " *space"]:
    """Tell tissue from air and padding; see the module's docstring for the rule."""
    dark, bright = np.percentile(channel, (DARK_PERCENT, BRIGHT_PERCENT))
    mask = channel > dark + AIR_FRACTION * (bright - dark)
    return mask if mask.any() else np.ones_like(mask)


def _foreground_indices(label: Int16[np.ndarray, " *space"]) -> tuple[np.ndarray, ...]:
    kind = np.int32 if label.size <= np.iinfo(np.int32).max else np.int64
    flat = label.ravel()
    found: list[np.ndarray] = []
    for k in np.unique(flat):
        if k == 0:
            continue
        indices = np.flatnonzero(flat == k)
        if len(indices) > LARGEST_FOREGROUND:
            even = np.linspace(0, len(indices) - 1, LARGEST_FOREGROUND)
            indices = indices[even.astype(np.int64)]
        found.append(indices.astype(kind))
    return tuple(found)
