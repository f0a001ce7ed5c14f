"""One NIfTI file into one checked array, as it lies in the file.

Nothing is unpickled, nothing is mapped into memory (a file that shrinks meanwhile would kill
the process), and nibabel's remarks on odd headers stay out of the log: what matters is checked.
"""

import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from jaxtyping import Float32, Float64
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger as nibabel_logger
from nibabel.spatialimages import HeaderDataError

from common.errors import CaseError

SPATIAL_AXES = 3
LARGEST_VOXELS = 1_500_000_000  # 6 GB as float32, before the label map
LARGEST_REST_BYTES = 16_000_000  # header, extensions, and whatever follows the voxels
FLATTEST = 1e-3  # volume between the unit vectors of a voxel's axes
READ_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    TypeError,
    OverflowError,
    KeyError,
    ImageFileError,
    HeaderDataError,
)


@dataclass(frozen=True, eq=False)
class Volume:
    """One file.

    Attributes:
        path: The file.
        array: Scaling applied. Axes X, Y, Z and, where it holds several channels, C; a 2-D
            image has a Z of 1.
        affine: Voxel indices to millimetres, RAS+.
        shape: Spatial shape as the file has it: X, Y and, unless it is a 2-D image, Z.
    """

    path: Path
    array: Float32[np.ndarray, "X Y Z *C"]
    affine: Float64[np.ndarray, "4 4"]
    shape: tuple[int, ...]


def read_volume(path: Path) -> Volume:
    """Read one file.

    Raises:
        CaseError: ``unreadable``, also for a file cut short or without permission;
            ``too_large``.
    """
    try:
        with quiet():
            return _parsed(path)
    except READ_ERRORS as error:
        raise CaseError(
            "unreadable",
            f"{path}: cannot be read ({type(error).__name__}: {error}); check that it is a "
            "whole NIfTI file and may be read",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep nibabel's and NumPy's remarks to themselves."""
    was_disabled = nibabel_logger.disabled
    nibabel_logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        nibabel_logger.disabled = was_disabled


def _parsed(path: Path) -> Volume:
    image: Any = nib.load(path, mmap=False)
    _check_header(path, image)
    if path.suffix == ".gz":
        image = type(image).from_bytes(_inflated(path, _voxel_bytes(image)))
    array = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    shape = tuple(int(side) for side in array.shape[:SPATIAL_AXES])
    while array.ndim > SPATIAL_AXES and array.shape[-1] == 1:
        array = array[..., 0]
    array = array.reshape(array.shape + (1,) * (SPATIAL_AXES - array.ndim))
    return Volume(path, array, np.asarray(image.affine, dtype=np.float64), shape)


def _check_header(path: Path, image: Any) -> None:
    if not isinstance(image, nib.Nifti1Image):
        raise CaseError("unreadable", f"{path}: is not NIfTI; convert it")
    if image.get_data_dtype().kind not in "iuf":
        raise CaseError("unreadable", f"{path}: does not hold plain numbers; convert it")
    if np.prod(image.shape, dtype=np.float64) > LARGEST_VOXELS:
        raise CaseError("too_large", f"{path}: has more than {LARGEST_VOXELS} voxels; crop it")
    axes = np.asarray(image.affine, dtype=np.float64)[:3, :3]
    directions = axes / np.linalg.norm(axes, axis=0)
    is_usable = np.isfinite(image.affine).all() and np.isfinite(directions).all()
    if not is_usable or abs(np.linalg.det(directions)) < FLATTEST:
        raise CaseError("unreadable", f"{path}: its header gives no usable position; repair it")


def _voxel_bytes(image: Any) -> int:
    return int(np.prod(image.shape)) * int(image.get_data_dtype().itemsize)


def _inflated(path: Path, voxel_bytes: int) -> bytes:
    """Decompress to the very end: nibabel stops before the checksum and sees no damage."""
    with gzip.open(path) as file:
        payload = file.read(voxel_bytes + LARGEST_REST_BYTES)
        if file.read(1):
            raise CaseError("unreadable", f"{path}: goes on after its voxels; export it again")
    return payload
