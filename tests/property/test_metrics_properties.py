import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from common.metrics import dice_of_labels, score_label

checked = settings(deadline=None, max_examples=60, derandomize=True)
shapes = npst.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6)
steps = st.floats(0.25, 8.0)


@st.composite
def pairs(draw):
    shape = draw(shapes)
    masks = [draw(npst.arrays(bool, shape)) for _ in range(2)]
    return (*masks, tuple(draw(steps) for _ in shape))


@checked
@given(pairs())
def test_dice_and_distances_do_not_depend_on_the_order(pair):
    first, second, spacing = pair

    there, back = score_label(first, second, spacing), score_label(second, first, spacing)

    for name in ("dice", "hd95_mm", "assd_mm", "voe"):
        assert getattr(there, name) == pytest.approx(getattr(back, name), nan_ok=True)
    assert (there.missed, there.absent) == (back.spurious, back.absent)


@checked
@given(pairs())
def test_scores_stay_within_their_bounds(pair):
    first, second, spacing = pair

    score = score_label(first, second, spacing)

    if score.absent:
        assert not first.any()
        assert not second.any()
        return
    diagonal = math.hypot(*(n * s for n, s in zip(first.shape, spacing, strict=True)))
    assert 0.0 <= score.dice <= 1.0
    assert score.dice - 1e-6 <= 1.0 - score.voe / 2.0
    assert 0.0 <= score.hd95_mm <= diagonal + 1e-9
    assert 0.0 <= score.assd_mm <= diagonal + 1e-9
    assert score.spurious or score.volume_difference >= -1.0


@checked
@given(pairs())
def test_dice_and_overlap_error_tell_the_same_story(pair):
    first, second, spacing = pair

    score = score_label(first, second, spacing)

    expected = 1.0 - score.dice / (2.0 - score.dice)
    assert score.voe == pytest.approx(expected, abs=1e-6, nan_ok=True)


@checked
@given(pairs())
def test_a_mask_agrees_with_itself(pair):
    mask, _, spacing = pair
    mask.flat[0] = True

    score = score_label(mask, mask, spacing)

    assert (score.dice, score.voe, score.volume_difference) == (1.0, 0.0, 0.0)
    assert (score.hd95_mm, score.assd_mm) == (0.0, 0.0)


@checked
@given(pairs())
def test_a_missed_structure_is_never_nan(pair):
    reference, _, spacing = pair
    reference.flat[0] = True

    score = score_label(np.zeros_like(reference), reference, spacing)

    numbers = (score.dice, score.hd95_mm, score.assd_mm, score.volume_difference, score.voe)
    assert score.missed
    assert all(math.isfinite(number) for number in numbers)


@checked
@given(pairs(), st.floats(0.5, 4.0))
def test_distances_scale_with_the_spacing_and_overlap_does_not(pair, factor):
    first, second, spacing = pair

    near = score_label(first, second, spacing)
    far = score_label(first, second, tuple(step * factor for step in spacing))

    assert far.dice == pytest.approx(near.dice, nan_ok=True)
    assert far.assd_mm == pytest.approx(near.assd_mm * factor, rel=1e-5, nan_ok=True)
    assert far.hd95_mm == pytest.approx(near.hd95_mm * factor, rel=1e-5, nan_ok=True)


@checked
@given(
    shapes.flatmap(
        lambda s: st.tuples(*[npst.arrays(np.uint8, s, elements=st.integers(0, 4))] * 2)
    )
)
def test_dice_of_labels_is_symmetric_and_bounded(maps):
    first, second = maps

    there = dice_of_labels(first, second, (1, 2, 3, 4))

    assert there == pytest.approx(dice_of_labels(second, first, (1, 2, 3, 4)), nan_ok=True)
    assert all(math.isnan(dice) or 0.0 <= dice <= 1.0 for dice in there.values())
