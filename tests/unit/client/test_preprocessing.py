import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from client.data.dataset import list_cases
from client.data.preprocessing import (
    LARGEST_FOREGROUND,
    IntensitySums,
    finish,
    image_foreground,
    intensity_sums,
    pooled,
    prepare,
    restore,
)
from client.data.reading import Geometry, RawCase, read_case
from client.profile import DatasetEntry
from tests.support.nifti import box_label, case_of, random_image, real_data, study_of

SHAPE = (12, 10, 8)


def raw_of(image, label=None, *, spacing=(1.0, 1.0, 1.0), modality="mr"):
    """Return a case as read, from one channel (*space) or several (C, *space)."""
    dimensions = len(spacing)
    image = image if image.ndim > dimensions else image[None]
    space = image.shape[1:]
    geometry = Geometry(
        np.diag([*spacing, *[1.0] * (4 - dimensions)]), space, dimensions, space, spacing
    )
    label = label if label is None else label.astype(np.int16)
    return RawCase(case_of(Path("a.nii"), modality=modality), image, label, geometry)


def ct_case(values, label, **changes):
    return prepare(raw_of(values, label, modality="ct", **changes), study_of())


def test_without_spacing_the_grid_stays(tmp_path):
    raw = raw_of(random_image(SHAPE), box_label(SHAPE), spacing=(1.0, 2.0, 3.0))

    prepared = prepare(raw, study_of())

    assert prepared.image.shape == (1, *SHAPE)
    np.testing.assert_array_equal(prepared.label, raw.label)
    np.testing.assert_array_equal(prepared.reference, raw.label)


def test_the_field_of_view_stays_when_the_spacing_changes():
    raw = raw_of(random_image(SHAPE), box_label(SHAPE), spacing=(1.0, 2.0, 3.0))

    prepared = prepare(raw, study_of(spacing_mm=(2.0, 2.0, 1.5)))

    assert prepared.image.shape[1:] == prepared.label.shape == (6, 10, 16)
    assert prepared.reference.shape == SHAPE


def test_no_axis_vanishes_at_a_coarse_spacing():
    prepared = prepare(raw_of(random_image(SHAPE)), study_of(spacing_mm=(100.0, 100.0, 1.0)))

    assert prepared.image.shape[1:] == (1, 1, 8)


def test_preparing_leaves_the_case_as_it_was():
    raw = raw_of(random_image(SHAPE), box_label(SHAPE))
    image, label = raw.image.copy(), raw.label.copy()

    prepared = prepare(raw, study_of())
    prepared.label[:] = 9

    np.testing.assert_array_equal(raw.image, image)
    np.testing.assert_array_equal(raw.label, label)


def test_a_slice_is_resampled_in_its_plane():
    raw = raw_of(random_image((12, 10)), box_label((12, 10)), spacing=(1.0, 2.0))

    prepared = prepare(raw, study_of(dimensions=2, spacing_mm=(2.0, 1.0)))

    assert prepared.image.shape == (1, 6, 20)
    assert prepared.label.shape == (6, 20)


def test_halving_a_grid_gives_the_means_of_neighbours():
    values = random_image(SHAPE)
    wide = study_of(spacing_mm=(2.0, 2.0, 2.0))
    case = prepare(raw_of(np.clip(values, -160, 240), modality="ct"), wide)

    blocks = np.clip(values, -160, 240).reshape(6, 2, 5, 2, 4, 2)
    np.testing.assert_allclose(case.image[0], blocks.mean(axis=(1, 3, 5)), rtol=1e-5)


def test_a_finer_grid_agrees_with_monais_spacing():
    # Not tried on coarser grids: MONAI 1.6.1 moves their first voxel outward, not inward.
    values = np.clip(random_image(SHAPE), -160, 240)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.spatial.array import Spacing

        spacing = Spacing(pixdim=(0.5, 0.25, 1.0), scale_extent=True, padding_mode="border")
        expected = spacing(MetaTensor(values[None], affine=np.eye(4))).numpy()

    case = prepare(raw_of(values, modality="ct"), study_of(spacing_mm=(0.5, 0.25, 1.0)))

    np.testing.assert_allclose(case.image, expected, atol=1e-3)


@pytest.mark.parametrize("target", [(0.7, 1.0, 1.9), (2.5, 0.4, 3.0)])
def test_any_grid_agrees_with_scipys_interpolation(target):
    values = np.clip(random_image(SHAPE), -160, 240)

    case = prepare(raw_of(values, modality="ct"), study_of(spacing_mm=target))

    shape = np.array(case.image.shape[1:]).reshape(3, 1, 1, 1)
    old = np.array(SHAPE).reshape(3, 1, 1, 1)
    places = (np.indices(case.image.shape[1:]) + 0.5) * old / shape - 0.5
    expected = ndimage.map_coordinates(values, places, order=1, mode="nearest")
    np.testing.assert_allclose(case.image[0], expected, atol=1e-2)


def test_a_resampled_label_has_only_classes_that_were_there():
    label = box_label(SHAPE, ids=(1, 5))

    prepared = prepare(raw_of(random_image(SHAPE), label), study_of(spacing_mm=(0.7, 1.3, 0.9)))

    assert set(np.unique(prepared.label)) == {0, 1, 5}


def test_a_case_without_label_is_prepared_without():
    prepared = prepare(raw_of(random_image(SHAPE)), study_of())

    assert prepared.label is None
    assert prepared.reference is None
    assert prepared.foreground == ()


def test_ct_is_clipped_to_the_window_and_waits_for_the_statistics():
    values = np.linspace(-1000, 1000, 960, dtype=np.float32).reshape(SHAPE)

    prepared = ct_case(values, box_label(SHAPE))

    assert (prepared.image.min(), prepared.image.max()) == (-160, 240)
    assert not prepared.ready


def test_ct_is_finished_with_pooled_statistics():
    prepared = ct_case(random_image(SHAPE), box_label(SHAPE))

    done = finish(prepared, ((40.0, 20.0),))

    assert done.ready
    np.testing.assert_allclose(done.image, (prepared.image - 40) / 20, rtol=1e-5)
    assert done.image.dtype == np.float32
    assert not prepared.ready


@pytest.mark.parametrize("statistics", [None, (), ((0.0, 1.0), (0.0, 1.0))])
def test_ct_is_not_finished_without_the_statistics_of_each_channel(statistics):
    prepared = ct_case(random_image(SHAPE), box_label(SHAPE))

    with pytest.raises(ValueError, match="pooled statistics are needed"):
        finish(prepared, statistics)


def test_mr_needs_no_statistics():
    prepared = prepare(raw_of(random_image(SHAPE)), study_of())

    assert prepared.ready
    assert finish(prepared, None) is prepared


def test_each_channel_of_mr_gets_mean_0_and_deviation_1_over_its_tissue():
    image = np.stack([random_image(SHAPE, 1), random_image(SHAPE, 2) * 1000])

    prepared = prepare(raw_of(image), study_of(channels=2))

    for channel, before in zip(prepared.image, image, strict=True):
        tissue = channel[image_foreground(before)]
        assert tissue.mean() == pytest.approx(0, abs=1e-5)
        assert tissue.std() == pytest.approx(1, abs=1e-5)


def test_air_around_the_body_does_not_change_its_normalisation():
    body = random_image((10, 10, 10))
    noise = np.abs(random_image((20, 20, 20), 1) - 100) / 30
    noise[5:15, 5:15, 5:15] = body

    alone = prepare(raw_of(body), study_of()).image[0]
    framed = prepare(raw_of(noise), study_of()).image[0][5:15, 5:15, 5:15]

    np.testing.assert_allclose(framed, alone, atol=0.1)


def test_scale_and_offset_of_the_scanner_do_not_matter():
    image = random_image(SHAPE)

    one, other = (prepare(raw_of(i), study_of()).image for i in (image, image * 37 - 500))

    np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_single_bright_voxel_does_not_blow_up():
    image = np.zeros(SHAPE, dtype=np.float32)
    image[3, 3, 3] = 1000

    assert np.isfinite(prepare(raw_of(image), study_of()).image).all()


def test_a_window_also_clips_mr():
    study = study_of()
    windowed = replace(study.modalities["mr"], window=(80.0, 120.0))

    prepared = prepare(raw_of(random_image(SHAPE)), replace(study, modalities={"mr": windowed}))

    lowest, highest = prepared.image.min(), prepared.image.max()
    assert (prepared.image == lowest).mean() > 0.1
    assert (prepared.image == highest).mean() > 0.1


def test_the_sums_are_those_of_the_labelled_voxels_after_clipping():
    values, label = random_image(SHAPE) * 4, box_label(SHAPE, ids=(1, 2))
    inside = np.clip(values, -160, 240)[label > 0].astype(np.float64)

    (sums,) = intensity_sums(ct_case(values, label))

    assert sums.count == inside.size
    assert pooled(sums) == pytest.approx((inside.mean(), inside.std()), rel=1e-9)


def test_sums_of_sites_pool_as_if_all_voxels_were_in_one_place():
    values = [random_image(SHAPE, seed) for seed in range(3)]
    sums = [intensity_sums(ct_case(v, box_label(SHAPE)))[0] for v in values]
    inside = np.concatenate([v[box_label(SHAPE) > 0] for v in values]).astype(np.float64)

    assert pooled(sums) == pooled(sums[0] + sums[1] + sums[2])
    assert pooled(sums) == pytest.approx((inside.mean(), inside.std()), rel=1e-5)


def test_pooled_statistics_never_divide_by_zero():
    assert pooled(IntensitySums(0, 0.0, 0.0)) == (0.0, 1.0)
    assert pooled([]) == (0.0, 1.0)
    assert pooled(IntensitySums(4, 400.0, 40_000.0)) == (100.0, 1.0)
    assert pooled(IntensitySums(3, 300.0, 29_999.999)) == (100.0, 1.0)


def test_a_case_without_label_adds_nothing_to_the_sums():
    assert intensity_sums(ct_case(random_image(SHAPE), None)) == (IntensitySums(0, 0.0, 0.0),)


def test_sums_are_refused_once_intensities_are_normalised():
    with pytest.raises(ValueError, match="already normalised"):
        intensity_sums(prepare(raw_of(random_image(SHAPE), box_label(SHAPE)), study_of()))


def test_the_foreground_lists_voxels_of_each_structure_present():
    label = box_label(SHAPE, ids=(2, 7))

    prepared = prepare(raw_of(random_image(SHAPE), label), study_of())

    for indices, number in zip(prepared.foreground, (2, 7), strict=True):
        np.testing.assert_array_equal(indices, np.flatnonzero(label == number))


def test_the_foreground_of_a_large_structure_is_thinned_evenly():
    label = np.ones((30, 30, 30), dtype=np.uint8)

    (indices,) = prepare(raw_of(random_image(label.shape), label), study_of()).foreground

    assert len(indices) == len(set(indices)) == LARGEST_FOREGROUND
    assert (indices[0], indices[-1]) == (0, label.size - 1)
    assert np.diff(indices).max() <= 3


def test_scores_on_the_same_grid_give_the_largest_and_the_lower_of_equals():
    scores = np.array([[0.5, 0.1, 0.2], [0.5, 0.6, 0.2], [0.1, 0.3, 0.9]], dtype=np.float32)
    raw = raw_of(np.zeros((3, 1, 1), dtype=np.float32))

    found = restore(scores[..., None, None], raw.geometry)

    assert found.dtype == np.int16
    assert found.ravel().tolist() == [0, 1, 2]


def test_scores_of_a_label_come_back_as_the_label():
    label = box_label((20, 20, 20), ids=(1, 2))
    raw = raw_of(random_image(label.shape), label)
    prepared = prepare(raw, study_of(spacing_mm=(0.5, 0.5, 0.5)))

    scores = np.stack([prepared.label == k for k in range(3)]).astype(np.float32)

    np.testing.assert_array_equal(restore(scores, raw.geometry), label)


@pytest.mark.parametrize("name", ["hippocampus_mr", "sarcoma_ct", "sarcoma_mr"])
def test_real_labels_survive_the_way_to_the_network_and_back(name):
    labels = ("anterior_hippocampus", "posterior_hippocampus", "gtv")
    study = study_of(*labels, spacing_mm=(1.5, 1.5, 3.0))
    modality = name.split("_")[1]
    entry = DatasetEntry(folder=str(real_data(name)), modality=modality)

    for case in list_cases(entry, study)[:3]:
        prepared = prepare(read_case(case, study), study)
        scores = np.stack([prepared.label == k for k in range(4)]).astype(np.float32)
        found, truth = restore(scores, prepared.geometry) > 0, prepared.reference > 0
        dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        # A hippocampus is 3 mm thin in places, as is the coarsest axis here.
        assert dice > (0.85 if name == "hippocampus_mr" else 0.95)
        assert np.isfinite(prepared.image).all()
