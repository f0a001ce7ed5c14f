import csv
import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml

from common.errors import InputError
from deploy.phantoms import PhantomPlan, SitePlan, parse_sites, write_phantoms
from deploy.phantoms.write import split_of_case


def plan_of(text="1ct,1mr", cases=3, **options):
    return PhantomPlan(sites=parse_sites(text, cases), **{"size": 32, **options})


def files_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def rows_of(folder):
    with (folder / "cases.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_sites_are_numbered_within_their_modality():
    sites = parse_sites("2ct, 1MRI,1mr", 7)

    assert [s.name for s in sites] == ["ct-1", "ct-2", "mr-1", "mr-2"]
    assert [s.modality for s in sites] == ["ct", "ct", "mr", "mr"]
    assert {s.cases for s in sites} == {7}


@pytest.mark.parametrize(
    "text", ["", "ct", "2pet", "0ct", "2ct,,1mr", "-1ct", "2ct;1mr", "1.5ct"]
)
def test_a_list_of_sites_that_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="2ct,2mri"):
        parse_sites(text, 3)


def test_profiles_come_back_in_the_order_of_the_sites(tmp_path):
    profiles = write_phantoms(tmp_path, plan_of("1mr,2ct"))

    assert [p.relative_to(tmp_path) for p in profiles] == [
        Path("mr-1.yaml"),
        Path("ct-1.yaml"),
        Path("ct-2.yaml"),
    ]


def test_the_data_set_file_describes_what_is_there(tmp_path):
    write_phantoms(tmp_path, plan_of())

    ct, mr = (json.loads((tmp_path / n / "dataset.json").read_text()) for n in ("ct-1", "mr-1"))

    assert ct["channel_names"] == {"0": "CT"}
    assert mr["channel_names"] == {"0": "MR"}
    assert ct["labels"] == {
        "background": 0, "liver": 1, "spleen": 2, "left_kidney": 3, "right_kidney": 4,
    }  # fmt: skip
    assert (ct["name"], ct["modality"], ct["numTraining"]) == ("ct-1", "ct", 3)
    assert ct["file_ending"] == ".nii.gz"


def test_every_row_of_the_table_has_an_image_and_a_reference(tmp_path):
    write_phantoms(tmp_path, plan_of(cases=4))
    folder = tmp_path / "mr-1"

    cases = [row["case"] for row in rows_of(folder)]

    images = sorted(p.name for p in (folder / "imagesTr").iterdir())
    labels = sorted(p.name for p in (folder / "labelsTr").iterdir())
    assert images == [f"{case}_0000.nii.gz" for case in cases]
    assert labels == [f"{case}.nii.gz" for case in cases]
    assert {row["modality"] for row in rows_of(folder)} == {"mr"}
    assert len({row["subject"] for row in rows_of(folder)}) == 4


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        (1, (1, 0, 0)),
        (2, (2, 0, 0)),
        (3, (1, 1, 1)),
        (5, (3, 1, 1)),
        (20, (13, 3, 4)),
        (100, (65, 15, 20)),
    ],
)
def test_the_last_cases_test_and_those_before_them_validate(cases, expected):
    splits = [split_of_case(index, cases) for index in range(cases)]

    assert tuple(splits.count(n) for n in ("train", "validation", "test")) == expected
    assert splits == sorted(splits, key=("train", "validation", "test").index)


def test_a_2d_image_is_one_slice_with_true_spacing(tmp_path):
    write_phantoms(tmp_path, plan_of("1ct", cases=1, spacing_mm=(4.0, 4.5)))

    image = nibabel.load(tmp_path / "ct-1/imagesTr/ct-1_001_0000.nii.gz")
    labels = nibabel.load(tmp_path / "ct-1/labelsTr/ct-1_001.nii.gz")

    assert image.shape == labels.shape == (32, 32, 1)
    assert image.header.get_zooms()[:2] == (4.0, 4.5)
    np.testing.assert_array_equal(image.affine, labels.affine)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.abs(image.affine[:3, 3]).min() > 0
    assert (image.get_data_dtype(), labels.get_data_dtype()) == (np.int16, np.uint8)


def test_a_volume_has_fewer_slices_and_its_own_spacing(tmp_path):
    write_phantoms(tmp_path, plan_of("1mr", cases=1, dimensions=3, size=None))

    image = nibabel.load(tmp_path / "mr-1/imagesTr/mr-1_001_0000.nii.gz")

    assert image.shape == (48, 48, 32)
    assert image.header.get_zooms() == (7.0, 7.0, 5.0)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_the_liver_lies_on_the_patients_right_by_the_affine(tmp_path, dimensions):
    write_phantoms(tmp_path, plan_of("1ct", cases=2, dimensions=dimensions))
    names = json.loads((tmp_path / "ct-1/dataset.json").read_text())["labels"]

    for path in (tmp_path / "ct-1/labelsTr").iterdir():
        image = nibabel.load(path)
        labels = voxels(path)
        middle = image.affine[:3, :3] @ ((np.array(labels.shape) - 1) / 2) + image.affine[:3, 3]
        right_mm = {
            name: nibabel.affines.apply_affine(image.affine, np.argwhere(labels == number))
            .mean(axis=0)[0] - middle[0]
            for name, number in names.items()
        }  # fmt: skip

        # nibabel's world coordinates are RAS+: the first one grows towards the right.
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert right_mm["liver"] > 10
        assert right_mm["right_kidney"] > 10
        assert right_mm["spleen"] < -10
        assert right_mm["left_kidney"] < -10


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    write_phantoms(tmp_path / "a", plan_of(seed=3))
    write_phantoms(tmp_path / "b", plan_of(seed=3))
    write_phantoms(tmp_path / "c", plan_of(seed=4))

    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    image = "ct-1/imagesTr/ct-1_001_0000.nii.gz"
    assert files_of(tmp_path / "a")[image] != files_of(tmp_path / "c")[image]


def test_another_case_or_site_leaves_the_other_images_alone(tmp_path):
    write_phantoms(tmp_path / "few", plan_of("1ct,1mr", cases=3))
    write_phantoms(tmp_path / "more", plan_of("2ct,1mr", cases=5))

    few, more = files_of(tmp_path / "few"), files_of(tmp_path / "more")

    images = [name for name in few if name.endswith(".nii.gz")]
    assert len(images) == 12
    assert all(few[name] == more[name] for name in images)


def test_no_two_patients_share_an_anatomy(tmp_path):
    write_phantoms(tmp_path, plan_of("2ct,2mr", cases=3))

    labels = [voxels(p).tobytes() for p in tmp_path.rglob("labelsTr/*.nii.gz")]

    assert len(set(labels)) == 12


def test_scanners_of_one_modality_differ(tmp_path):
    write_phantoms(tmp_path, plan_of("6ct,6mr", cases=1))

    air_hu, air_mr = (
        [voxels(p)[:4, :4].mean() for p in sorted(tmp_path.glob(f"{m}-*/imagesTr/*"))]
        for m in ("ct", "mr")
    )

    assert max(air_hu) > min(air_hu) + 10
    assert max(air_mr) > min(air_mr) * 1.5


def test_labels_a_site_does_not_annotate_are_missing_from_its_references(tmp_path):
    site = SitePlan(
        name="mr-1", modality="mr", cases=1, not_annotated=("spleen", "left_kidney")
    )

    (profile,) = write_phantoms(tmp_path, PhantomPlan(sites=(site,), size=32))

    names = json.loads((tmp_path / "mr-1/dataset.json").read_text())["labels"]
    content = yaml.safe_load(profile.read_text())
    assert names == {"background": 0, "liver": 1, "right_kidney": 2}
    assert set(np.unique(voxels(tmp_path / "mr-1/labelsTr/mr-1_001.nii.gz"))) == {0, 1, 2}
    assert content["datasets"][0]["labels"] == {
        "liver": "liver",
        "right_kidney": "right_kidney",
    }
    assert content["datasets"][0]["not_annotated"] == ["spleen", "left_kidney"]


def test_a_profile_finds_its_data_set_from_its_own_folder(tmp_path):
    site = SitePlan(name="no", modality="ct", cases=1)

    (profile,) = write_phantoms(
        tmp_path, PhantomPlan(sites=(site,), size=32, labels=("liver",))
    )

    content = yaml.safe_load(profile.read_text())
    assert content == {
        "name": "no",
        "datasets": [
            {
                "folder": "no",
                "modality": "ct",
                "labels": {"liver": "liver"},
                "not_annotated": [],
            }
        ],
        "device": "cpu",
    }
    assert (profile.parent / content["datasets"][0]["folder"] / "dataset.json").is_file()


def test_a_folder_that_holds_files_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "mr-1").mkdir()
    (tmp_path / "mr-1" / "thesis.txt").write_text("mine")

    with pytest.raises(InputError, match="mr-1: holds files already"):
        write_phantoms(tmp_path, plan_of())

    assert not (tmp_path / "ct-1").exists()


def test_a_profile_that_exists_is_not_overwritten(tmp_path):
    (tmp_path / "ct-1.yaml").write_text("mine")

    with pytest.raises(InputError, match=r"ct-1\.yaml: exists already"):
        write_phantoms(tmp_path, plan_of())

    assert (tmp_path / "ct-1.yaml").read_text() == "mine"


def test_a_full_disk_is_told_in_one_sentence_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(InputError, match="No space left on device") as refusal:
        write_phantoms(tmp_path, plan_of())

    assert "\n" not in str(refusal.value)
    assert files_of(tmp_path) == {}


def test_a_path_through_a_file_is_told_in_one_sentence(tmp_path):
    (tmp_path / "out").write_text("a file")

    with pytest.raises(InputError, match="cannot be written"):
        write_phantoms(tmp_path / "out", plan_of())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"dimensions": 4}, "dimensions"),
        ({"difficulty": "cruel"}, "easy, default, hard"),
        ({"seed": -1}, "seed"),
        ({"size": 8}, "16 to 512"),
        ({"spacing_mm": (1.0, 1.0, 1.0)}, "spacing_mm"),
        ({"spacing_mm": (1.0, -1.0)}, "spacing_mm"),
        ({"labels": ("liver", "heart")}, "heart"),
        ({"labels": ("liver", "liver")}, "each once"),
        ({"labels": ()}, "none"),
        ({"sites": ()}, "at least one"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_plan_that_cannot_be_made_is_refused(options, word):
    with pytest.raises(InputError, match=word):
        PhantomPlan(**{"sites": parse_sites("1ct", 3), **options})


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"name": "../etc"}, "not a usable name"),
        ({"name": "CT"}, "not a usable name"),
        ({"modality": "pet"}, "use ct or mr"),
        ({"cases": 0}, "at least 1"),
    ],
    ids=["path", "upper case", "modality", "no cases"],
)
def test_a_site_that_cannot_be_made_is_refused(fields, word):
    with pytest.raises(InputError, match=word):
        SitePlan(**{"name": "ct-1", "modality": "ct", "cases": 3, **fields})


def test_two_sites_of_one_name_are_refused():
    site = SitePlan(name="ct-1", modality="ct", cases=1)

    with pytest.raises(InputError, match="ct-1 stands there 2 times"):
        PhantomPlan(sites=(site, site))


@pytest.mark.parametrize(
    ("left_out", "word"),
    [(("heart",), "heart"), (("liver", "spleen"), "annotates nothing")],
)
def test_a_site_must_leave_out_known_labels_and_keep_one(left_out, word):
    site = SitePlan(name="ct-1", modality="ct", cases=1, not_annotated=left_out)

    with pytest.raises(InputError, match=word):
        PhantomPlan(sites=(site,), labels=("liver", "spleen"))
