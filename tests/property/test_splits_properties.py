from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.splits import assign_splits, position
from tests.support.nifti import case_of, evaluation_of, study_of

NAMES = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=25, unique=True)
PARTS = ("train", "validation", "test")


def cases_of(names):
    return [case_of(Path("a.nii"), Path("l.nii"), name=n, subject=n) for n in names]


def sides_of(names, seed):
    split = assign_splits(cases_of(names), study_of(evaluation=evaluation_of(), seed=seed))
    return {case.subject: part for part, kept in split.items() for case in kept}


@given(before=NAMES, added=NAMES, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_adding_cases_moves_nobody_unless_a_part_was_empty(before, added, seed):
    old = sides_of(before, seed)
    numbers = [position(name, seed) for name in before]
    was_whole = {"test": (0, 0.25), "validation": (0.25, 0.5), "train": (0.5, 1)}
    is_whole = all(any(a <= u < b for u in numbers) for a, b in was_whole.values())

    new = sides_of([*before, *(name for name in added if name not in old)], seed)

    if is_whole:
        assert {name: new[name] for name in old} == old


@given(names=NAMES, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_everybody_is_on_one_side_and_the_order_of_cases_does_not_matter(names, seed):
    forward, backward = sides_of(names, seed), sides_of(names[::-1], seed)

    assert forward == backward
    assert set(forward) == set(names)


@given(names=NAMES, seed=st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_no_wanted_part_is_empty_with_three_people_or_more(names, seed):
    sides = sides_of(names, seed)

    if len(names) >= 3:
        assert set(sides.values()) == set(PARTS)


@given(name=st.text(), seed=st.integers(0, 2**32 - 1))
def test_a_persons_number_is_at_least_zero_and_below_one(name, seed):
    assert 0 <= position(name, seed) < 1
