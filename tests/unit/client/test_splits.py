from pathlib import Path

import pytest

from client.data.splits import assign_splits, position
from common.errors import DatasetError
from tests.support.nifti import case_of, evaluation_of, study_of

STUDY = study_of(evaluation=evaluation_of(validation=0.25, test=0.25))


def cases_of(*subjects, **changes):
    return [
        case_of(Path(f"{s}.nii"), Path("label.nii"), name=s, subject=s, **changes)
        for s in subjects
    ]


def sides_of(cases, study=STUDY):
    return {c.subject: part for part, kept in assign_splits(cases, study).items() for c in kept}


def people_at(side, count, study=STUDY):
    """Return names whose number alone puts them on one side."""
    low, high = {"test": (0, 0.25), "validation": (0.25, 0.5), "train": (0.5, 1)}[side]
    names = (f"p{i}" for i in range(10_000))
    found = [name for name in names if low <= position(name, study.seed) < high]
    return found[:count]


def test_the_number_of_a_person_decides_the_side():
    people = {side: people_at(side, 3) for side in ("train", "validation", "test")}

    split = assign_splits(cases_of(*(n for names in people.values() for n in names)), STUDY)

    assert {side: [case.subject for case in kept] for side, kept in split.items()} == people
    assert list(split) == ["train", "validation", "test"]


def test_the_number_of_a_person_is_what_sha256sum_gives():
    first_64_bits = 0x5CC84D5291F5B665  # printf 1:STS_001 | sha256sum

    assert position("STS_001", 1) == pytest.approx(first_64_bits / 2**64, abs=1e-15)


def test_the_ct_and_the_mr_of_a_person_are_on_one_side():
    people = [*people_at("train", 2), *people_at("test", 2), *people_at("validation", 2)]
    ct, mr = cases_of(*people, modality="ct"), cases_of(*people, modality="mr")

    split = assign_splits([*ct, *mr], STUDY)

    for kept in split.values():
        assert [c.subject for c in kept if c.modality == "ct"] == [
            c.subject for c in kept if c.modality == "mr"
        ]


def test_another_seed_gives_another_split():
    names = [f"p{i}" for i in range(50)]

    assert sides_of(cases_of(*names)) != sides_of(
        cases_of(*names), study_of(evaluation=STUDY.evaluation, seed=2)
    )


def test_a_written_split_wins_for_all_cases_of_the_person():
    (name,) = people_at("train", 1)
    cases = [*cases_of(name, split="test"), *cases_of(name)]

    assert len(assign_splits(cases, STUDY)["test"]) == 2


def test_a_written_split_is_not_completed():
    cases = cases_of(*people_at("train", 4), split="train")

    assert set(sides_of(cases).values()) == {"train"}


def test_two_written_splits_of_one_person_are_refused():
    cases = [*cases_of("a", split="test"), *cases_of("a", split="train")]

    with pytest.raises(DatasetError, match="one person belongs on one side"):
        assign_splits(cases, STUDY)


def test_cases_without_label_are_left_out():
    unlabelled = [case_of(Path("b.nii"), None, subject="b")]

    assert assign_splits(unlabelled, STUDY) == {"train": [], "validation": [], "test": []}


def test_empty_parts_are_filled_from_training_lowest_number_first():
    people = sorted(people_at("train", 5), key=lambda name: position(name, STUDY.seed))

    split = assign_splits(cases_of(*people), STUDY)

    assert [c.subject for c in split["test"]] == people[:1]
    assert [c.subject for c in split["validation"]] == people[1:2]


def test_training_is_never_left_empty_with_three_people():
    people = people_at("test", 3)

    split = assign_splits(cases_of(*people), STUDY)

    assert [len(split[part]) for part in ("train", "validation", "test")] == [1, 1, 1]


def test_a_part_that_the_study_does_not_want_stays_empty():
    study = study_of(evaluation=evaluation_of(validation=0.0, test=0.25))

    split = assign_splits(cases_of(*people_at("train", 5)), study)

    assert [len(split[part]) for part in ("train", "validation", "test")] == [4, 0, 1]


def test_two_people_are_left_where_their_numbers_put_them():
    assert set(sides_of(cases_of(*people_at("train", 2))).values()) == {"train"}
