import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.data.augmentation import build_augmentation
from common.study import Augmentation, Label
from tests.support.nifti import box_label, random_image, study_of

SHAPE = (16, 14, 12)
NOTHING = {
    "rotation_degrees": 0.0, "scale": 0.0, "shift": 0.0, "contrast": 0.0, "noise": 0.0, "gamma": 0.0,
}  # fmt: skip


def only(**changes):
    """Return a configuration that always makes the given changes and no other."""
    return Augmentation(**{"probability": 1.0, **NOTHING, **changes})


def patch(shape=SHAPE, channels=1):
    image = np.stack([random_image(shape, seed) for seed in range(channels)])
    return (image - 100) / 30, box_label(shape, ids=(1, 2)).astype(np.int16)


def changed(config, study=None, seed=0, shape=SHAPE, channels=1):
    study = study or study_of(dimensions=len(shape))
    augment = build_augmentation(config, study)
    return augment(*patch(shape, channels), np.random.default_rng(seed))


ALL = Augmentation(probability=1.0, flip_axes=(0, 1))


@pytest.mark.parametrize("shape", [SHAPE, (16, 14)], ids=["3-D", "2-D"])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_types_stay_plain(shape, channels):
    image, label = changed(ALL, shape=shape, channels=channels)

    assert type(image) is type(label) is np.ndarray
    assert image.shape == (channels, *shape)
    assert label.shape == shape
    assert (image.dtype, label.dtype) == (np.float32, np.int16)
    assert np.isfinite(image).all()


def test_labels_stay_labels():
    assert set(np.unique(changed(ALL, seed=1)[1])) <= {0, 1, 2}


def test_the_same_generator_gives_the_same_bits_whatever_came_before():
    augment = build_augmentation(ALL, study_of())
    first = augment(*patch(), np.random.default_rng(5))
    augment(*patch(), np.random.default_rng(6))

    again = augment(*patch(), np.random.default_rng(5))

    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_another_state_of_the_generator_gives_another_patch():
    augment, rng = build_augmentation(ALL, study_of()), np.random.default_rng(5)

    first, second = augment(*patch(), rng)[0], augment(*patch(), rng)[0]

    assert not np.array_equal(first, second)


def test_the_input_is_not_modified():
    image, label = patch()
    before = image.copy(), label.copy()

    augment = build_augmentation(ALL, study_of())
    out_image, out_label = augment(image, label, np.random.default_rng(0))
    out_image[:], out_label[:] = 0, 0

    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_a_flip_also_gives_new_arrays():
    image, label = patch()
    before = image.copy()

    augment = build_augmentation(only(flip_axes=(0,)), study_of())
    augment(image, label, np.random.default_rng(0))[0][:] = 0

    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    "config", [Augmentation(probability=0.0, flip_axes=(0,)), only()], ids=["never", "nothing"]
)
def test_what_changes_nothing_returns_its_input_and_draws_nothing(config):
    image, label = patch()
    rng = np.random.default_rng(0)

    found = build_augmentation(config, study_of())(image, label, rng)

    assert found[0] is image
    assert found[1] is label
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_turns_image_and_label_about_its_axis(axis):
    image, label = patch()

    found = changed(only(flip_axes=(axis,)))

    np.testing.assert_array_equal(found[0], np.flip(image, axis + 1))
    np.testing.assert_array_equal(found[1], np.flip(label, axis))


def test_left_and_right_are_never_swapped_in_a_study_with_sides():
    kidneys = (Label(name="kidney_l", side="left"), Label(name="kidney_r", side="right"))
    study = study_of()
    study = type(study)(name="k", labels=kidneys, modalities=study.modalities)
    image, _ = patch()

    unflipped = changed(only(flip_axes=(0,)), study)
    flipped = changed(only(flip_axes=(0, 1)), study)

    np.testing.assert_array_equal(unflipped[0], image)
    np.testing.assert_array_equal(flipped[0], np.flip(image, 2))


@pytest.mark.parametrize("key", ["shift", "contrast", "noise", "gamma"])
def test_intensity_changes_leave_the_label(key):
    image, label = patch()

    found = changed(only(**{key: 0.3}))

    assert not np.array_equal(found[0], image)
    np.testing.assert_array_equal(found[1], label)


@pytest.mark.parametrize("key", ["shift", "contrast", "noise"])
def test_intensity_changes_stay_within_their_range(key):
    image, _ = patch()

    for seed in range(20):
        change = changed(only(**{key: 0.3}), seed=seed)[0] - image
        limit = {"shift": 0.3, "contrast": 0.3 * np.abs(image).max(), "noise": 0.3 * 6}[key]
        assert np.abs(change).max() <= limit * 1.001


@pytest.mark.parametrize("key", ["rotation_degrees", "scale"])
def test_spatial_changes_move_image_and_label_alike(key):
    _, label = patch()
    augment = build_augmentation(only(**{key: 20.0 if "rot" in key else 0.2}), study_of())

    image, moved = augment(label[None].astype(np.float32), label, np.random.default_rng(2))

    assert not np.array_equal(moved, label)
    overlap = (image[0] > 0.5) & (moved > 0)
    assert 2 * overlap.sum() / ((image[0] > 0.5).sum() + (moved > 0).sum()) > 0.9


def test_thick_slices_are_turned_in_their_plane_only():
    study = study_of(spacing_mm=(1.0, 1.0, 5.0))
    _, label = patch()
    label[:, :, 6:] = 0

    _, moved = changed_label(only(rotation_degrees=45.0), study, label)

    assert moved.any()
    assert not moved[:, :, 6:].any()


def changed_label(config, study, label):
    augment = build_augmentation(config, study)
    return augment(label[None].astype(np.float32), label, np.random.default_rng(2))


def test_monai_keeps_its_settings():
    from monai.data.meta_obj import get_track_meta

    before = get_track_meta()
    changed(ALL)

    assert get_track_meta() is before


def test_importing_the_module_imports_no_monai():
    code = "import sys, client.data.augmentation; sys.exit('monai' in sys.modules)"
    root = Path(__file__).resolve().parents[3]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
