import csv

import pytest

from client.data.dataset import list_cases
from client.profile import DatasetEntry
from common.errors import DatasetError
from tests.support.nifti import (
    box_label,
    decathlon,
    describe,
    nnunet,
    people,
    real_data,
    study_of,
    write_nifti,
)


def entry_of(folder, **changes):
    return DatasetEntry(**{"folder": str(folder), "modality": "ct", **changes})


def cases_of(folder, study=None, **changes):
    return list_cases(entry_of(folder, **changes), study or study_of())


def test_the_cases_of_an_nnunet_folder_are_found(tmp_path):
    first, second = cases_of(nnunet(tmp_path, ("b", "a")))

    assert (first.name, first.subject, first.modality) == ("a", "a", "ct")
    assert first.images == (tmp_path / "imagesTr/a_0000.nii.gz",)
    assert first.label == tmp_path / "labelsTr/a.nii.gz"
    assert first.ids == ((0, 0), (1, 1), (2, 2))
    assert first.annotated == (1, 2)
    assert first.split is None
    assert second.name == "b"


def test_the_cases_of_a_decathlon_folder_are_found(tmp_path):
    first, second = cases_of(decathlon(tmp_path))

    assert (first.name, second.name) == ("a", "b")
    assert first.images[0].samefile(tmp_path / "imagesTr/a.nii.gz")
    assert first.label.samefile(tmp_path / "labelsTr/a.nii.gz")
    assert first.ids == ((0, 0), (1, 1), (2, 2))


def test_several_channels_are_several_files(tmp_path):
    folder = nnunet(tmp_path, channel_names={"0": "T1", "1": "T2"})

    images = cases_of(folder)[0].images

    assert [path.name for path in images] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_the_file_ending_is_honoured(tmp_path):
    folder = nnunet(tmp_path, ("a",), file_ending=".nii")
    write_nifti(folder / "imagesTr/other_0000.nii.gz", box_label((4, 4, 4)))

    (case,) = cases_of(folder)

    assert case.images[0].name == "a_0000.nii"


def test_files_that_are_no_cases_are_passed_over(tmp_path):
    folder = nnunet(tmp_path, ("a",))
    for name in ("._a_0000.nii.gz", "notes.txt", "a.nii.gz"):
        (folder / "imagesTr" / name).write_text("no image")

    assert [case.name for case in cases_of(folder)] == ["a"]


def test_a_case_without_label_file_is_listed_without_label(tmp_path):
    folder = nnunet(tmp_path)
    (folder / "labelsTr/a.nii.gz").unlink()

    assert [case.label is None for case in cases_of(folder)] == [True, False]


def test_a_decathlon_entry_without_label_is_listed_without_label(tmp_path):
    folder = decathlon(tmp_path, training=[{"image": "./imagesTr/a.nii.gz"}])

    assert [case.label for case in cases_of(folder)] == [None]


def test_a_case_that_lacks_a_channel_is_listed_with_the_file_that_should_be(tmp_path):
    folder = nnunet(tmp_path, channel_names={"0": "T1", "1": "T2"})
    (folder / "imagesTr/a_0000.nii.gz").unlink()

    case = cases_of(folder)[0]

    assert [path.exists() for path in case.images] == [False, True]


def test_dataset_labels_become_the_studys_by_name_and_by_id(tmp_path):
    folder = nnunet(tmp_path, labels={"background": 0, "lebermasse": 5, "spleen": 2, "x": 9})

    by_name = cases_of(folder, labels={"lebermasse": "liver"})[0]
    by_id = cases_of(folder, labels={"5": "liver"})[0]

    assert by_name.ids == by_id.ids == ((0, 0), (2, 2), (5, 1), (9, 0))


def test_several_dataset_labels_may_be_one_label_of_the_study(tmp_path):
    case = cases_of(nnunet(tmp_path), study_of("organ"), labels={"1": "organ", "2": "organ"})[0]

    assert case.ids == ((0, 0), (1, 1), (2, 1))
    assert case.annotated == (1,)


def test_a_mapping_wins_over_an_equal_name(tmp_path):
    case = cases_of(nnunet(tmp_path), labels={"liver": "spleen", "spleen": "liver"})[0]

    assert case.ids == ((0, 0), (1, 2), (2, 1))


def test_a_label_that_is_not_annotated_becomes_background(tmp_path):
    case = cases_of(nnunet(tmp_path), not_annotated=("spleen",))[0]

    assert case.ids == ((0, 0), (1, 1), (2, 0))
    assert case.annotated == (1,)


def test_people_and_splits_come_from_the_table(tmp_path):
    folder = people(nnunet(tmp_path), "case subject split", "a p1 test", "b p1 ")

    a, b = cases_of(folder)

    assert (a.subject, a.split) == ("p1", "test")
    assert (b.subject, b.split) == ("p1", None)


def test_a_part_takes_whole_people_and_parts_share_nobody(tmp_path):
    names = [f"c{i}" for i in range(9)]
    folder = nnunet(tmp_path, names, shape=(3, 3, 3))
    people(folder, "case subject", *(f"{name} p{i // 2}" for i, name in enumerate(names)))

    parts = [cases_of(folder, part=f"{k}/2") for k in (1, 2)]

    subjects = [{case.subject for case in part} for part in parts]
    assert not subjects[0] & subjects[1]
    assert sorted(len(part) for part in subjects) == [2, 3]
    assert sum(len(part) for part in parts) == len(names)


def test_a_part_without_people_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="part 3/3 is empty: 2 people are too few"):
        cases_of(nnunet(tmp_path), part="3/3")


@pytest.mark.parametrize(
    "lines",
    [
        ("name subject", "a p"),
        ("case person", "a p"),
        ("case subject", "a p"),
        ("case subject", "a p", "b "),
        ("case subject", "a p", "a p", "b p"),
        ("case subject split", "a p dev", "b p dev"),
    ],
    ids=["no case", "no subject", "case absent", "no person", "two lines", "unknown split"],
)
def test_a_table_that_leaves_a_person_unknown_is_refused(tmp_path, lines):
    folder = people(nnunet(tmp_path), *lines)

    with pytest.raises(DatasetError, match=r"cases\.tsv") as caught:
        cases_of(folder)

    assert str(folder) in str(caught.value)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    folder = nnunet(tmp_path)
    (folder / "cases.tsv").write_bytes(b"case\tsubject\n\xff\xfe\t\n")

    with pytest.raises(DatasetError, match=r"cases\.tsv cannot be read"):
        cases_of(folder)


def test_an_empty_dataset_is_refused(tmp_path):
    folder = nnunet(tmp_path, ())

    with pytest.raises(DatasetError, match=r"has no case; expected images named imagesTr"):
        cases_of(folder)


def test_an_empty_decathlon_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="has no case; expected at least one entry"):
        cases_of(decathlon(tmp_path, ()))


def test_an_image_folder_that_cannot_be_read_is_refused(tmp_path):
    folder = nnunet(tmp_path, ())
    (folder / "imagesTr").write_text("a file in place of a folder")

    with pytest.raises(DatasetError, match="imagesTr cannot be read"):
        cases_of(folder)


def test_a_channel_that_the_description_lacks_is_refused(tmp_path):
    folder = nnunet(tmp_path, ("a",))
    write_nifti(folder / "imagesTr/a_0001.nii.gz", box_label((8, 7, 6)))

    with pytest.raises(DatasetError, match=r"a_0001\.nii\.gz is channel 1"):
        cases_of(folder)


@pytest.mark.parametrize("path", ["../secret.nii.gz", "/etc/secret.nii.gz", "a/../../b.nii.gz"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, path, key):
    entry = {"image": "a.nii.gz", "label": "a.nii.gz", key: path}
    folder = decathlon(tmp_path / "data", training=[entry])

    with pytest.raises(DatasetError, match="leaves the folder"):
        cases_of(folder)


def test_a_link_out_of_the_folder_is_not_followed_for_a_named_path(tmp_path):
    write_nifti(tmp_path / "secret.nii.gz", box_label((4, 4, 4)))
    folder = decathlon(tmp_path / "data", (), training=[{"image": "link.nii.gz"}])
    (folder / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")

    with pytest.raises(DatasetError, match="leaves the folder"):
        cases_of(folder)


def test_two_entries_of_one_name_are_refused(tmp_path):
    folder = decathlon(tmp_path, training=[{"image": "x/a.nii.gz"}, {"image": "y/a.nii.gz"}])

    with pytest.raises(DatasetError, match="two cases called a"):
        cases_of(folder)


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ({"labels": {"background": 0}}, "has neither 'channel_names'"),
        ({"channel_names": [], "labels": {"a": 1}}, "'channel_names' is not a mapping"),
        ({"channel_names": {"0": "CT"}}, "has no 'labels'"),
        ({"channel_names": {"0": "CT"}, "labels": {"a": [1, 2]}}, "a region of several ids"),
        ({"channel_names": {"0": "CT"}, "labels": {"ignore": 3}}, "the label 'ignore'"),
        ({"channel_names": {"0": "CT"}, "labels": {"a": -1}}, "the id -1, expected 0 to"),
        ({"channel_names": {"0": "CT"}, "labels": {"a": 1, "b": 1}}, "label 'b' or id 1 twice"),
        ({"channel_names": {"0": "CT"}, "labels": {"a": True}}, "the id True, expected"),
        (
            {"channel_names": {"0": "CT"}, "labels": {"a": 1}, "file_ending": ".png"},
            "'file_ending' is '.png'",
        ),
        ({"modality": {"0": "CT"}, "labels": {"1": "a"}}, "has no list 'training'"),
        (
            {"modality": {"0": "CT"}, "labels": {"1": "a"}, "training": [{"label": "x"}]},
            "in entry 0 of 'training'",
        ),
    ],
)
def test_a_description_that_lacks_something_is_refused_by_name(tmp_path, description, said):
    folder = describe(tmp_path, description)

    with pytest.raises(DatasetError) as caught:
        cases_of(folder)

    assert str(caught.value).startswith(f"{folder}: dataset.json ")
    assert said in str(caught.value)


def test_a_folder_without_description_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        cases_of(tmp_path)


def test_a_folder_in_place_of_the_description_is_refused(tmp_path):
    (tmp_path / "dataset.json").mkdir()

    with pytest.raises(DatasetError, match=r"dataset\.json cannot be read"):
        cases_of(tmp_path)


def test_a_description_of_absurd_size_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("client.data.description.LARGEST_FILE_BYTES", 10)

    with pytest.raises(DatasetError, match="refused unread"):
        cases_of(nnunet(tmp_path))


@pytest.mark.parametrize("name", ["hippocampus_mr", "sarcoma_ct", "sarcoma_mr"])
def test_real_cases_are_listed_with_their_people(name):
    folder = real_data(name)
    with (folder / "cases.tsv").open() as file:
        table = {row["case"]: row["subject"] for row in csv.DictReader(file, delimiter="\t")}

    cases = cases_of(folder, study_of("gtv", "anterior_hippocampus", "posterior_hippocampus"))

    assert {case.name: case.subject for case in cases} == table
    assert all(case.label is not None for case in cases)
