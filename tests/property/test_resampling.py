import itertools
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from client.data.preprocessing import prepare, restore
from client.data.reading import read_case, write_label
from tests.support.nifti import box_label, case_of, random_image, study_of, write_nifti
from tests.unit.client.test_preprocessing import raw_of

CODES = [
    "".join(code)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for code in itertools.product(*axes)
]
SPACING = st.floats(0.6, 2.5)
SHAPE = (24, 20, 18)


def blob(centre, radius):
    """Return a ball, as a label map."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    return (np.linalg.norm(grid - np.array(centre), axis=-1) <= radius).astype(np.int16)


def centre_of(label):
    return np.array(ndimage.center_of_mass(label > 0))


@given(
    spacing=st.tuples(SPACING, SPACING, SPACING),
    target=st.tuples(SPACING, SPACING, SPACING),
    centre=st.tuples(st.floats(8, 15), st.floats(8, 11), st.floats(8, 9)),
    radius=st.floats(4, 7),
)
@settings(deadline=None, max_examples=60)
def test_a_blob_comes_back_within_half_a_voxel_of_the_coarser_grid(
    spacing, target, centre, radius
):
    label = blob(centre, radius)
    raw = raw_of(label.astype(np.float32), label, spacing=spacing)

    prepared = prepare(raw, study_of("blob", spacing_mm=target))
    scores = np.stack([prepared.label == k for k in range(2)]).astype(np.float32)
    back = restore(scores, raw.geometry)

    assert back.shape == SHAPE
    apart_mm = np.abs(centre_of(back) - centre_of(label)) * spacing
    assert (apart_mm <= 0.5 * np.maximum(spacing, target)).all()


@given(
    spacing=st.tuples(SPACING, SPACING, SPACING), target=st.tuples(SPACING, SPACING, SPACING)
)
@settings(deadline=None, max_examples=60)
def test_a_blob_stays_at_its_place_in_space(spacing, target):
    label = blob((11, 10, 9), 6)
    prepared = prepare(
        raw_of(label.astype(np.float32), label, spacing=spacing),
        study_of("blob", spacing_mm=target),
    )

    extent = np.array(SHAPE) * spacing
    before = (centre_of(label) + 0.5) / SHAPE * extent
    after = (centre_of(prepared.label) + 0.5) / prepared.label.shape * extent

    assert (np.abs(before - after) <= 0.5 * np.maximum(spacing, target)).all()


@given(
    seed=st.integers(0, 1000),
    target=st.tuples(SPACING, SPACING, SPACING),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 9)),
)
@settings(deadline=None, max_examples=60)
def test_resampling_invents_no_intensities_and_no_classes(seed, target, shape):
    image = random_image(shape, seed)
    label = np.random.default_rng(seed).integers(0, 4, size=shape)

    prepared = prepare(raw_of(image, label, modality="ct"), study_of(spacing_mm=target))

    assert image.min() - 1e-3 <= prepared.image.min()
    assert prepared.image.max() <= image.max() + 1e-3
    assert set(np.unique(prepared.label)) <= set(np.unique(label))


def affine_of(code, spacing=(1.0, 2.0, 3.0)):
    orientation = nib.orientations.axcodes2ornt(code)
    affine = nib.orientations.inv_ornt_aff(orientation, (8, 7, 6))
    return np.linalg.inv(affine) @ np.diag([*spacing, 1.0])


@pytest.mark.parametrize("code", CODES)
def test_every_axis_order_becomes_ras_and_comes_back_exactly(tmp_path, code):
    label = box_label((8, 7, 6), ids=(1, 2))
    image = random_image((8, 7, 6))
    affine = affine_of(code)
    case = case_of(
        write_nifti(tmp_path / "i.nii", image, affine),
        write_nifti(tmp_path / "l.nii", label, affine),
    )

    raw = read_case(case, study_of())
    write_label(tmp_path / "back.nii", raw.label, raw.geometry)

    back = nib.load(tmp_path / "back.nii")
    canonical = nib.as_closest_canonical(nib.load(case.images[0]))
    assert nib.aff2axcodes(back.affine) == nib.aff2axcodes(affine)
    np.testing.assert_array_equal(raw.image[0], canonical.get_fdata(dtype=np.float32))
    assert raw.geometry.canonical_spacing_mm == pytest.approx(canonical.header.get_zooms())
    np.testing.assert_array_equal(np.asarray(back.dataobj), label)
    np.testing.assert_array_equal(back.affine, nib.load(case.label).affine)


@given(code=st.sampled_from(CODES), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_every_slice_comes_back_exactly(code, seed):
    shape = (5, 4, 1)
    label = np.random.default_rng(seed).integers(0, 3, size=shape).astype(np.uint8)
    affine = affine_of(code)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = case_of(
            write_nifti(folder / "i.nii", random_image(shape, seed), affine),
            write_nifti(folder / "l.nii", label, affine),
        )
        raw = read_case(case, study_of(dimensions=2))
        write_label(folder / "back.nii", raw.label, raw.geometry)
        back = np.asarray(nib.load(folder / "back.nii").dataobj)

    np.testing.assert_array_equal(back, label)
