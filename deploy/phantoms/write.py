"""Phantom data sets on disk, in the layout that nnU-Net v2 reads, with a profile per site.

Source: Isensee et al., nnU-Net, Nature Methods 18, 2021; the dataset format of its version 2.

Every patient has a random stream of their own, keyed by the seed, the site's name and the
patient's number. One more case or one more site therefore leaves all other images as they are;
only ``cases.tsv`` deals the cases out anew.
"""

import gzip
import json
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from common.errors import InputError
from deploy.phantoms.anatomy import label_map, sample_anatomy
from deploy.phantoms.difficulty import DIFFICULTIES
from deploy.phantoms.physics import RENDERERS, Scanner, draw_scanner
from deploy.phantoms.plan import PhantomPlan, SitePlan

_SLICE_MM = 5.0  # thickness written for a 2-D image, which has no second slice to tell it
_ORIGIN_SD_MM = 15.0
_TEST_SHARE = 0.20
_VALIDATION_SHARE = 0.15
_FEWEST_CASES_TO_SPLIT = 3
_SCANNER_STREAM, _PATIENT_STREAM = 1, 2


def write_phantoms(out: Path, plan: PhantomPlan) -> tuple[Path, ...]:
    """Write a data set and a profile for every site.

    A site named ``ct-1`` gets ``out/ct-1/`` (``dataset.json``, ``cases.tsv``, ``imagesTr``,
    ``labelsTr``) and ``out/ct-1.yaml``. Each file appears whole or not at all.

    Args:
        out: Folder for all sites; made if it does not exist.
        plan: What to make.

    Returns:
        The profiles' paths, in the order of the plan's sites.

    Raises:
        InputError: If a site's folder or profile is already there, in which case nothing is
            written, or if the disk does not take the files.
    """
    try:
        for site in plan.sites:
            _refuse_to_overwrite(out, site)
        return tuple(_write_site(out, plan, site) for site in plan.sites)
    except OSError as error:
        where, why = error.filename or out, error.strerror or str(error)
        raise InputError(
            f"{where}: cannot be written ({why}); make room or choose another folder"
        ) from error


def split_of_case(index: int, cases: int) -> str:
    """Say whether a case is for training, validation or testing.

    The last fifth is for testing and the 15 % before it for validation, at least one case
    each; a site with fewer than three cases only trains.
    """
    if cases < _FEWEST_CASES_TO_SPLIT:
        return "train"
    tests = max(1, round(_TEST_SHARE * cases))
    validations = max(1, round(_VALIDATION_SHARE * cases))
    if index >= cases - tests:
        return "test"
    return "validation" if index >= cases - tests - validations else "train"


def _refuse_to_overwrite(out: Path, site: SitePlan) -> None:
    folder, profile = out / site.name, out / f"{site.name}.yaml"
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds files already; remove it or choose another folder")
    if profile.exists():
        raise InputError(f"{profile}: exists already; remove it or choose another folder")


def _write_site(out: Path, plan: PhantomPlan, site: SitePlan) -> Path:
    """Write one site; its profile comes last, so that a profile's data are complete."""
    folder = out / site.name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    scanner = draw_scanner(_stream(plan.seed, _SCANNER_STREAM, site.name))
    for index in range(site.cases):
        _write_case(folder, plan, site, scanner, index)
    _write_bytes(folder / "dataset.json", _dataset_json(plan, site).encode())
    _write_bytes(folder / "cases.tsv", _cases_table(site).encode())
    profile = out / f"{site.name}.yaml"
    _write_bytes(profile, _profile(plan, site).encode())
    return profile


def _write_case(
    folder: Path, plan: PhantomPlan, site: SitePlan, scanner: Scanner, index: int
) -> None:
    """Draw one patient and write the image and its reference."""
    rng = _stream(plan.seed, _PATIENT_STREAM, site.name, index)
    difficulty = DIFFICULTIES[plan.difficulty]
    tissue = sample_anatomy(plan.shape, difficulty, rng)
    image = RENDERERS[site.modality](tissue, scanner, difficulty, rng)
    affine = _draw_affine(plan, rng)
    labels = label_map(tissue, plan.annotated(site))
    case = _case_name(site, index)
    _write_bytes(folder / "imagesTr" / f"{case}_0000.nii.gz", _nifti_bytes(image, affine))
    _write_bytes(folder / "labelsTr" / f"{case}.nii.gz", _nifti_bytes(labels, affine))


def _stream(seed: int, purpose: int, name: str, index: int = 0) -> np.random.Generator:
    """Return the random stream of one site's scanner or of one patient.

    The length goes before the name's bytes, so that no two keys run into each other.
    """
    key = (seed, purpose, len(name), *name.encode(), index)
    return np.random.default_rng(np.random.SeedSequence(key))


def _draw_affine(plan: PhantomPlan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Lay the grid into the scanner's room: axes along RAS+, the middle near the isocentre."""
    spacing = np.array([*plan.voxel_mm, _SLICE_MM][:3])
    extent = np.array([*plan.shape, 1][:3]) - 1
    middle = rng.normal(0.0, _ORIGIN_SD_MM, size=3)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.round(middle - spacing * extent / 2.0, 1)
    return affine


def _nifti_bytes(
    voxels: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64]
) -> bytes:
    """Encode voxels as a compressed NIfTI-1 file; a 2-D image becomes one slice."""
    volume = voxels[..., np.newaxis] if voxels.ndim == 2 else voxels  # noqa: PLR2004
    image = Nifti1Image(volume, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    # No time stamp: the same phantom is the same file.
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _case_name(site: SitePlan, index: int) -> str:
    return f"{site.name}_{index + 1:03d}"


def _dataset_json(plan: PhantomPlan, site: SitePlan) -> str:
    names = ("background", *plan.annotated(site))
    content = {
        "name": site.name,
        "modality": site.modality,
        "channel_names": {"0": site.modality.upper()},
        "labels": {name: number for number, name in enumerate(names)},
        "numTraining": site.cases,
        "file_ending": ".nii.gz",
    }
    return json.dumps(content, indent=2) + "\n"


def _cases_table(site: SitePlan) -> str:
    rows = ["case\tsubject\tmodality\tsplit"]
    for index in range(site.cases):
        subject = f"{site.name}-p{index + 1:03d}"
        split = split_of_case(index, site.cases)
        rows.append(f"{_case_name(site, index)}\t{subject}\t{site.modality}\t{split}")
    return "\n".join(rows) + "\n"


def _profile(plan: PhantomPlan, site: SitePlan) -> str:
    """Compose a profile; names are quoted because YAML takes ``no`` for a truth value."""
    name = json.dumps(site.name)
    labels = ", ".join(f"{label}: {label}" for label in plan.annotated(site))
    absent = ", ".join(label for label in plan.labels if label in site.not_annotated)
    return (
        f"name: {name}\n"
        "datasets:\n"
        f"  - folder: {name}  # relative to this file\n"
        f"    modality: {site.modality}\n"
        f"    labels: {{{labels}}}  # the data set's label: the study's label\n"
        f"    not_annotated: [{absent}]\n"
        "device: cpu\n"
    )


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and move it into place."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
