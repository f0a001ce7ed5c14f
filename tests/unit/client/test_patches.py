import numpy as np
import pytest

from client.data.patches import draw_batch, sample_patch
from client.data.preprocessing import prepare
from tests.support.nifti import box_label, random_image, study_of
from tests.unit.client.test_preprocessing import raw_of


def case_of(shape=(12, 10, 8), *, ids=(1, 2), label=None):
    label = box_label(shape, ids=ids) if label is None else label
    return prepare(raw_of(random_image(shape), label, spacing=(1.0,) * len(shape)), study_of())


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [(4, 4, 4), (12, 10, 8), (1, 1, 1), (5, 16, 8), (20, 20, 20)])
def test_a_patch_has_the_size_asked_for(size):
    image, label = sample_patch(case_of(), size, 0.5, rng())

    assert image.shape == (1, *size)
    assert label.shape == size
    assert (image.dtype, label.dtype) == (np.float32, np.int16)


def test_a_patch_of_a_slice_has_two_axes():
    case = prepare(
        raw_of(random_image((12, 10)), box_label((12, 10)), spacing=(1.0, 1.0)),
        study_of(dimensions=2),
    )

    image, label = sample_patch(case, (4, 16), 1.0, rng())

    assert image.shape == (1, 4, 16)
    assert label.any()


def test_image_and_label_are_cut_at_the_same_place():
    case = case_of()
    case.image = np.stack([case.label, case.label + 10]).astype(np.float32)

    for seed in range(20):
        image, label = sample_patch(case, (4, 4, 4), 0.5, rng(seed))
        np.testing.assert_array_equal(image, [label, label + 10])


def test_a_foreground_patch_contains_its_structure():
    label = np.zeros((12, 10, 8), dtype=np.uint8)
    label[11, 0, 7] = 1

    for seed in range(50):
        assert sample_patch(case_of(label=label), (4, 5, 6), 1.0, rng(seed))[1].any()


def test_a_foreground_voxel_may_lie_anywhere_in_its_patch():
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[10, 10, 10] = 1
    case = case_of(label=label, shape=label.shape)

    found = {int(np.argmax(sample_patch(case, (4, 4, 4), 1.0, rng(s))[1])) for s in range(900)}

    assert found == set(range(64))


def test_a_small_structure_is_drawn_as_often_as_a_large_one():
    label = np.ones((12, 10, 8), dtype=np.uint8)
    label[0, 0, 0] = 2
    case = case_of(label=label)

    hits = sum((sample_patch(case, (1, 1, 1), 1.0, rng(s))[1] == 2).any() for s in range(400))

    assert 150 < hits < 250


def test_without_foreground_every_place_is_as_likely():
    case = case_of((4, 4, 4), label=np.arange(64).reshape(4, 4, 4).astype(np.uint8))
    generator = rng()

    corners = [int(sample_patch(case, (2, 2, 2), 0.0, generator)[1].min()) for _ in range(2700)]

    counts = np.unique(corners, return_counts=True)[1]
    assert len(counts) == 27
    assert counts.min() > 60
    assert counts.max() < 140


def test_a_case_without_structure_still_gives_patches():
    case = case_of(label=np.zeros((12, 10, 8), dtype=np.uint8))

    assert not sample_patch(case, (4, 4, 4), 1.0, rng())[1].any()


def test_a_small_image_is_whole_in_its_patch_with_zeros_around():
    case = case_of()

    image, label = sample_patch(case, (16, 16, 16), 1.0, rng())

    assert image.sum() == pytest.approx(case.image.sum(), abs=1e-2)
    assert np.count_nonzero(image) == np.count_nonzero(case.image)
    assert np.count_nonzero(label) == np.count_nonzero(case.label)


def test_a_patch_is_a_copy():
    case = case_of()
    before = case.image.copy()

    image, label = sample_patch(case, (12, 10, 8), 0.5, rng())
    image[:], label[:] = 7, 7

    np.testing.assert_array_equal(case.image, before)
    assert case.label.max() == 2


def test_a_case_without_label_gives_no_patch():
    case = prepare(raw_of(random_image((4, 4, 4))), study_of())

    with pytest.raises(ValueError, match="needs a label map"):
        sample_patch(case, (2, 2, 2), 0.5, rng())


def test_a_batch_is_drawn_from_all_cases_with_replacement():
    cases = [case_of(), case_of()]

    images, labels, chosen = draw_batch(
        cases, size=(4, 4, 4), batch=40, foreground=0.5, rng=rng()
    )

    assert len(images) == len(labels) == len(chosen) == 40
    assert {id(case) for case in chosen} == {id(case) for case in cases}


def test_the_same_generator_gives_the_same_batch():
    case = case_of()

    first, second = (
        draw_batch([case], size=(4, 4, 4), batch=5, foreground=0.5, rng=rng(3)) for _ in "ab"
    )

    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_no_case_gives_no_batch():
    with pytest.raises(ValueError, match="no case to draw from"):
        draw_batch([], size=(4, 4, 4), batch=1, foreground=0.5, rng=rng())
