from dataclasses import replace

import pytest

from client.profile import DatasetEntry, Profile, check_profile, load_profile
from common.errors import ProfileError
from tests.support.nifti import describe, nnunet, study_of


def profile_file(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return path


def problems_of(tmp_path, text):
    with pytest.raises(ProfileError) as caught:
        load_profile(profile_file(tmp_path, text))
    return caught.value.problems


def profile_of(folder, **changes):
    values = {"folder": str(folder), "modality": "ct", **changes}
    return Profile(name="north", datasets=(DatasetEntry(**values),))


def test_a_profile_is_read_with_its_defaults_and_its_folders_beside_it(tmp_path):
    text = "name: north\ndatasets:\n- {folder: data/ct, modality: ct, labels: {7: liver}}\n"

    profile = load_profile(profile_file(tmp_path, text))

    entry = DatasetEntry(folder=str(tmp_path / "data/ct"), modality="ct", labels={"7": "liver"})
    assert profile == Profile(name="north", datasets=(entry,))


def test_an_absolute_folder_stays_as_it_is(tmp_path):
    text = f"name: north\ndatasets:\n- {{folder: {tmp_path}/elsewhere, modality: ct}}\n"

    profile = load_profile(profile_file(tmp_path, text))

    assert profile.datasets[0].folder == f"{tmp_path}/elsewhere"


def test_an_unknown_key_is_refused_with_line_and_nearest_spelling(tmp_path):
    text = "name: north\ndevise: cpu\ndatasets:\n- {folder: x, modality: ct, lables: {}}\n"

    device, labels = problems_of(tmp_path, text)

    assert "site.yaml, line 2: devise: unknown key" in device
    assert "did you mean device?" in device
    assert "line 4: datasets.0.lables: unknown key" in labels
    assert "did you mean labels?" in labels


def test_all_impossible_values_are_told_at_once(tmp_path):
    text = (
        "name: '../north'\ndevice: cuda:x\nthreads: -1\npredictions: -3\n"
        "checkpoint_seconds: -0.5\n"
        "datasets:\n- {folder: '', modality: ct, part: 5/4}\n"
    )

    problems = "\n".join(problems_of(tmp_path, text))

    keys = ("name", "device", "threads", "predictions", "checkpoint_seconds")
    for line, place in enumerate(keys, 1):
        assert f"line {line}: {place}: " in problems
    assert "datasets.0.folder: is empty" in problems
    assert "datasets.0.part: is '5/4', expected e.g. 2/4" in problems


@pytest.mark.parametrize("part", ["0/2", "1", "a/b", "-1/2", "1/0"])
def test_a_part_that_is_none_is_refused(tmp_path, part):
    text = f"name: n\ndatasets:\n- {{folder: x, modality: ct, part: '{part}'}}\n"

    (problem,) = problems_of(tmp_path, text)

    assert "datasets.0.part" in problem


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_every_device_is_taken(tmp_path, device):
    text = f"name: n\ndevice: '{device}'\ndatasets:\n- {{folder: x, modality: ct}}\n"

    assert load_profile(profile_file(tmp_path, text)).device == device


def test_a_misspelt_device_is_refused_with_the_nearest(tmp_path):
    text = "name: n\ndevice: cude\ndatasets:\n- {folder: x, modality: ct}\n"

    (problem,) = problems_of(tmp_path, text)

    assert "line 2: device: is 'cude', expected auto, cpu, cuda or cuda:N" in problem
    assert "did you mean cuda?" in problem


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is empty"),
        ("- a\n", "a profile is a mapping"),
        ("name: [\n", "is not valid YAML"),
        ("name: n\n", "datasets: is missing"),
        ("name: n\ndatasets: []\n", "datasets: is empty"),
        ("name: n\nthreads: four\ndatasets: [{folder: a, modality: b}]\n", "line 2: threads: "),
    ],
    ids=["empty", "list", "broken", "no datasets", "empty datasets", "wrong type"],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, text, found):
    assert found in "\n".join(problems_of(tmp_path, text))


def test_an_absent_file_is_refused_as_a_profile(tmp_path):
    with pytest.raises(ProfileError, match="cannot be read: No such file"):
        load_profile(tmp_path / "none.yaml")


def test_a_profile_that_fits_its_study_has_no_problems(tmp_path):
    profile = profile_of(nnunet(tmp_path / "ct"))

    assert check_profile(profile, study_of(), "site.yaml") == []


def test_a_label_may_be_mapped_by_name_or_by_id(tmp_path):
    profile = profile_of(nnunet(tmp_path), labels={"liver": "organ", "2": "organ"})

    assert check_profile(profile, study_of("organ"), "site.yaml") == []


def test_an_unknown_modality_is_told_with_the_nearest(tmp_path):
    profile = profile_of(nnunet(tmp_path), modality="crt")

    (problem,) = check_profile(profile, study_of(), "site.yaml")

    assert problem.startswith("site.yaml: datasets.0.modality: 'crt' is not known")
    assert problem.endswith("did you mean ct?")


def test_a_mapping_to_a_label_that_the_study_lacks_is_told(tmp_path):
    profile = profile_of(nnunet(tmp_path), labels={"liver": "livre"}, not_annotated=("liver",))

    (problem,) = check_profile(profile, study_of(), "site.yaml")

    assert "datasets.0.labels.liver: 'livre' is not known" in problem
    assert "did you mean liver?" in problem


def test_a_mapping_of_a_label_that_the_dataset_lacks_is_told(tmp_path):
    profile = profile_of(nnunet(tmp_path), labels={"lever": "liver", "9": "spleen"})

    by_name, by_id = check_profile(profile, study_of(), "site.yaml")

    assert "datasets.0.labels.lever: dataset.json: 'lever' is not known" in by_name
    assert "datasets.0.labels.9: dataset.json: '9' is not known" in by_id


def test_a_label_of_the_study_that_nothing_stands_for_is_told(tmp_path):
    profile = profile_of(nnunet(tmp_path))

    (problem,) = check_profile(profile, study_of("liver", "spleens"), "site.yaml")

    assert "nothing stands for the study's label spleens" in problem
    assert "did you mean spleen?" in problem


def test_a_label_stated_as_not_annotated_needs_no_mapping(tmp_path):
    profile = profile_of(nnunet(tmp_path), not_annotated=("kidney",))

    assert check_profile(profile, study_of("liver", "kidney"), "site.yaml") == []


def test_a_label_cannot_be_mapped_and_not_annotated(tmp_path):
    profile = profile_of(nnunet(tmp_path), labels={"2": "spleen"}, not_annotated=("spleen",))

    (problem,) = check_profile(profile, study_of(), "site.yaml")

    assert "spleen is mapped and also in not_annotated" in problem


def test_an_unknown_label_in_not_annotated_is_told(tmp_path):
    profile = profile_of(nnunet(tmp_path), not_annotated=("kidny",))

    (problem,) = check_profile(profile, study_of(), "site.yaml")

    assert "datasets.0.not_annotated.0: 'kidny' is not known" in problem


def test_an_absent_folder_and_an_absent_description_are_told(tmp_path):
    folders = (tmp_path / "none", tmp_path)
    entries = tuple(DatasetEntry(folder=str(folder), modality="ct") for folder in folders)

    absent, undescribed = check_profile(
        Profile(name="north", datasets=entries), study_of(), "site.yaml"
    )

    assert "datasets.0.folder:" in absent
    assert "is no folder" in absent
    assert "datasets.1.folder:" in undescribed
    assert "has no dataset.json" in undescribed


def test_another_number_of_channels_is_told(tmp_path):
    profile = profile_of(nnunet(tmp_path))

    (problem,) = check_profile(profile, replace(study_of(), channels=2), "site.yaml")

    assert "datasets.0.folder: has 1 image channels, but the study has 2" in problem


def test_a_broken_description_is_told_and_not_raised(tmp_path):
    (problem,) = check_profile(profile_of(describe(tmp_path, "{")), study_of(), "site.yaml")

    assert "dataset.json is not valid JSON" in problem
