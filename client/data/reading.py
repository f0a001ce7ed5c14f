"""NIfTI files into arrays in RAS order, and label maps back into files.

Every way in which a file can be unfit raises :class:`~common.errors.CaseError` with a fixed
word, so that the case is set aside, counted, and the rest goes on. The whole story stays at the
site.

A slice of a 2-D study is a volume of depth one in its file: it is put in RAS order as a volume,
then loses the axis that was its third, so a coronal slice becomes (left-right, foot-head).
"""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Float64, Int16, Integer
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    io_orientation,
    ornt_transform,
)

from client.data.dataset import CaseFiles
from client.data.nifti import SPATIAL_AXES, Volume, quiet, read_volume
from common.errors import CaseError
from common.files import writing
from common.study import Study

AFFINE_TOLERANCE_VOXELS = 0.1
INTEGER_TOLERANCE = 1e-3  # label maps stored as scaled floats
LARGEST_CLASS = 255
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where an image lies in its file and in space.

    Attributes:
        affine: Of the file: voxel indices to millimetres, RAS+.
        shape: Of the array in the file, channels left out; what a written label map gets.
        dimensions: 2 or 3, as the study has them.
        canonical_shape: Voxels along each axis in RAS order; one number a dimension.
        canonical_spacing_mm: Distance of neighbouring voxels along the same axes.
    """

    affine: Float64[np.ndarray, "4 4"]
    shape: tuple[int, ...]
    dimensions: int
    canonical_shape: tuple[int, ...]
    canonical_spacing_mm: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class RawCase:
    """One case as read: RAS order, its own spacing and intensities.

    Attributes:
        files: Where it came from.
        image: Intensities in the file's own unit, scaling applied.
        label: The study's class indices; 0 is the background.
        geometry: The way back.
    """

    files: CaseFiles
    image: Float32[np.ndarray, "C *space"]
    label: Int16[np.ndarray, " *space"] | None
    geometry: Geometry


def read_case(files: CaseFiles, study: Study) -> RawCase:
    """Read and check one case.

    Raises:
        CaseError: With the reason ``unreadable``, ``too_large``, ``dimensions``,
            ``shape_mismatch``, ``affine_mismatch``, ``unknown_label``, ``not_finite`` or
            ``constant``.
    """
    volumes = _read_channels(files.images, study, files.name)
    geometry, orientation = _geometry(volumes[0], study)
    image = _as_image(volumes, geometry, orientation)
    _check_intensities(image, files.images)
    label = None
    if files.label is not None:
        found = read_volume(files.label)
        _check_same_grid(volumes[0], found)
        classes = _class_indices(found, dict(files.ids))
        label = _canonical(classes, geometry, orientation)
    return RawCase(files, image, label, geometry)


def read_image(
    paths: Sequence[Path], study: Study, name: str
) -> tuple[Float32[np.ndarray, "C *space"], Geometry]:
    """Read and check an image without label, to predict on it.

    Args:
        paths: One file a channel, or one file with all channels in its last axis.
        study: Gives the dimensions and the number of channels.
        name: Of the case, for messages.

    Raises:
        CaseError: As :func:`read_case`.
    """
    volumes = _read_channels(paths, study, name)
    geometry, orientation = _geometry(volumes[0], study)
    image = _as_image(volumes, geometry, orientation)
    _check_intensities(image, paths)
    return image, geometry


def write_label(path: Path, label: Integer[np.ndarray, " *space"], geometry: Geometry) -> None:
    """Write a label map on the grid of the file that the geometry came from.

    The file appears whole or not at all, and the same label gives the same bytes.

    Args:
        path: Ends in ``.nii.gz`` or ``.nii``; its folder exists. Replaced if it is there.
        label: Class indices 0 to 255 in RAS order, of ``geometry.canonical_shape``.
        geometry: Of the image that was segmented.

    Raises:
        RunError: If the file cannot be written.
        ValueError: If the shape is not the geometry's or an index does not fit.
    """
    if label.shape != geometry.canonical_shape:
        raise ValueError(f"label has shape {label.shape}, expected {geometry.canonical_shape}")
    if label.size and not 0 <= int(label.min()) <= int(label.max()) <= LARGEST_CLASS:
        raise ValueError(f"label has an index outside 0 to {LARGEST_CLASS}")
    orientation = io_orientation(geometry.affine)
    if geometry.dimensions != SPATIAL_AXES:
        label = np.expand_dims(label, _slice_axis(orientation))
    back = ornt_transform(axcodes2ornt("RAS"), orientation)
    array = np.ascontiguousarray(apply_orientation(label, back).astype(np.uint8))
    with quiet():
        image = nib.Nifti1Image(array.reshape(geometry.shape), geometry.affine)
        image.set_sform(geometry.affine, code=1)
        image.set_qform(geometry.affine, code=1)
        image.header.set_xyzt_units("mm")
        payload = image.to_bytes()
    with writing(path) as file:
        file.write(gzip.compress(payload, mtime=0) if path.suffix == ".gz" else payload)


def _read_channels(paths: Sequence[Path], study: Study, name: str) -> list[Volume]:
    volumes = [read_volume(path) for path in paths]
    channels = sum(_channels_first(volume).shape[0] for volume in volumes)
    for volume in volumes:
        _check_dimensions(volume, study)
    for volume in volumes[1:]:
        _check_same_grid(volumes[0], volume)
    if channels != study.channels:
        raise CaseError(
            "dimensions",
            f"case {name} has {channels} image channels, but the study has {study.channels}; "
            "give one file for each channel",
        )
    return volumes


def _check_dimensions(volume: Volume, study: Study) -> None:
    found = "x".join(str(side) for side in volume.array.shape)
    is_flat = len(volume.shape) < SPATIAL_AXES
    if volume.array.size == 0 or volume.array.ndim > SPATIAL_AXES + 1 or len(volume.shape) == 1:
        detail = f"has the shape {found}; expected a volume, or one with channels last"
    elif study.dimensions == SPATIAL_AXES and is_flat:
        detail = "is one 2-D image, but the study is 3-D; give volumes"
    elif study.dimensions != SPATIAL_AXES and volume.array.shape[2] != 1:
        detail = f"is a volume of {found}, but the study is 2-D; give each slice as a case"
    else:
        return
    raise CaseError("dimensions", f"{volume.path}: {detail}")


def _check_same_grid(image: Volume, other: Volume) -> None:
    mine, others = image.array.shape[:SPATIAL_AXES], other.array.shape
    if mine != others[:SPATIAL_AXES]:
        raise CaseError(
            "shape_mismatch",
            f"{other.path}: has the shape {others}, but {image.path.name} has {mine}; resample "
            "one onto the other",
        )
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(mine) - 1)
    apart_mm = nib.affines.apply_affine(image.affine - other.affine, corners)
    limit_mm = AFFINE_TOLERANCE_VOXELS * float(nib.affines.voxel_sizes(image.affine).min())
    distance_mm = float(np.linalg.norm(apart_mm, axis=1).max())
    if not distance_mm <= limit_mm:
        raise CaseError(
            "affine_mismatch",
            f"{other.path}: lies up to {distance_mm:.3g} mm from {image.path.name}; repair the "
            "header or resample one onto the other",
        )


def _geometry(volume: Volume, study: Study) -> tuple[Geometry, Float64[np.ndarray, "3 2"]]:
    orientation = io_orientation(volume.affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in range(SPATIAL_AXES)]
    if study.dimensions != SPATIAL_AXES:
        axes.remove(2)
    sizes = nib.affines.voxel_sizes(volume.affine)
    geometry = Geometry(
        affine=volume.affine,
        shape=volume.shape,
        dimensions=study.dimensions,
        canonical_shape=tuple(volume.array.shape[axis] for axis in axes),
        canonical_spacing_mm=tuple(float(sizes[axis]) for axis in axes),
    )
    return geometry, orientation


def _slice_axis(orientation: Float64[np.ndarray, "3 2"]) -> int:
    """Return where the file's third axis lies in RAS order."""
    return int(orientation[2, 0])


def _canonical(
    array: np.ndarray, geometry: Geometry, orientation: Float64[np.ndarray, "3 2"]
) -> np.ndarray:
    array = apply_orientation(array, orientation)
    if geometry.dimensions != SPATIAL_AXES:
        array = np.squeeze(array, _slice_axis(orientation))
    return np.ascontiguousarray(array)


def _channels_first(volume: Volume) -> Float32[np.ndarray, "C X Y Z"]:
    array = volume.array
    return np.moveaxis(array, -1, 0) if array.ndim > SPATIAL_AXES else array[None]


def _as_image(
    volumes: Sequence[Volume], geometry: Geometry, orientation: Float64[np.ndarray, "3 2"]
) -> Float32[np.ndarray, "C *space"]:
    channels = [channel for volume in volumes for channel in _channels_first(volume)]
    return np.stack([_canonical(channel, geometry, orientation) for channel in channels])


def _check_intensities(image: Float32[np.ndarray, "C *space"], paths: Sequence[Path]) -> None:
    for i, channel in enumerate(image):
        path = paths[i] if len(paths) > 1 else paths[0]
        # A sum is finite only if every term is; unlike isfinite it needs no second array.
        if not np.isfinite(channel.sum(dtype=np.float64)):
            raise CaseError(
                "not_finite", f"{path}: has NaN or infinite voxels; export it again"
            )
        if channel.min() == channel.max():
            raise CaseError(
                "constant", f"{path}: all voxels are equal; there is nothing to see"
            )


def _class_indices(volume: Volume, ids: dict[int, int]) -> Int16[np.ndarray, "X Y Z"]:
    if volume.array.ndim > SPATIAL_AXES:
        raise CaseError("dimensions", f"{volume.path}: a label map has no channels; split it")
    if not np.isfinite(volume.array.sum(dtype=np.float64)):
        raise CaseError("not_finite", f"{volume.path}: has NaN or infinite voxels")
    whole = np.rint(volume.array)
    if np.abs(whole - volume.array).max() > INTEGER_TOLERANCE:
        raise CaseError("unknown_label", f"{volume.path}: has values that are no whole numbers")
    classes = np.full(max(ids) + 1, UNKNOWN, dtype=np.int16)
    for number, index in ids.items():
        classes[number] = index
    is_inside = (whole >= 0) & (whole <= max(ids))
    mapped = np.where(
        is_inside, classes[np.where(is_inside, whole, 0).astype(np.int32)], UNKNOWN
    )
    if (mapped == UNKNOWN).any():
        first = int(whole[mapped == UNKNOWN][0])
        raise CaseError(
            "unknown_label",
            f"label id {first} in {volume.path} is not in the dataset's dataset.json; add it "
            "there or correct the label map",
        )
    return np.asarray(mapped, dtype=np.int16)
