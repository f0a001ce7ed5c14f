import csv
import gzip
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from monai.transforms.spatial.array import Orientation

from client.data.dataset import list_cases
from client.data.reading import read_case, read_image, write_label
from client.profile import DatasetEntry
from common.errors import CaseError, RunError
from tests.support.nifti import (
    box_label,
    case_of,
    decathlon,
    nnunet,
    random_image,
    real_data,
    study_of,
    write_nifti,
)

SHAPE = (8, 7, 6)
LPS = np.diag([-1.5, -2.0, 3.0, 1.0])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, 0.3) @ np.diag([-1.0, 1.0, 2.0]), [10, -20, 30]
)


def pair(tmp_path, image=None, label=None, affine=None, label_affine=None):
    image = random_image(SHAPE) if image is None else image
    label = box_label(image.shape[:3], ids=(1, 2)) if label is None else label
    other = affine if label_affine is None else label_affine
    return case_of(
        write_nifti(tmp_path / "a_0000.nii.gz", image, affine),
        write_nifti(tmp_path / "a.nii.gz", label, other),
    )


def patch(path, offset, replacement):
    """Overwrite bytes of an uncompressed file, as no library would let one."""
    whole = path.read_bytes()
    path.write_bytes(whole[:offset] + replacement + whole[offset + len(replacement) :])


def refusal(case, study=None):
    """Return the reason and the detail with which a case is set aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CaseError) as caught:
            read_case(case, study or study_of())
    return caught.value.reason, caught.value.detail


def test_a_case_is_read_in_its_own_units_with_the_studys_classes(tmp_path):
    image, label = random_image(SHAPE), box_label(SHAPE, ids=(1, 7))
    case = replace(pair(tmp_path, image, label), ids=((0, 0), (1, 2), (7, 1), (9, 0)))

    raw = read_case(case, study_of())

    assert raw.image.dtype == np.float32
    assert raw.label.dtype == np.int16
    np.testing.assert_array_equal(raw.image, image[None])
    np.testing.assert_array_equal(raw.label == 2, label == 1)
    np.testing.assert_array_equal(raw.label == 1, label == 7)
    assert raw.geometry.canonical_shape == raw.geometry.shape == SHAPE
    assert raw.geometry.canonical_spacing_mm == (1, 1, 1)


def test_an_id_without_label_in_the_study_becomes_background(tmp_path):
    case = replace(pair(tmp_path), ids=((0, 0), (1, 1), (2, 0)))

    assert set(np.unique(read_case(case, study_of()).label)) == {0, 1}


def test_the_scaling_of_the_file_is_applied(tmp_path):
    stored = np.arange(336, dtype=np.int16).reshape(SHAPE)
    path = write_nifti(tmp_path / "a.nii", stored)
    slope_at = 112
    patch(path, slope_at, np.array([0.5, -1024], dtype=np.float32).tobytes())

    found, _ = read_image([path], study_of(), "a")

    np.testing.assert_array_equal(found[0], stored * 0.5 - 1024)


@pytest.mark.parametrize("affine", [LPS, OBLIQUE, np.eye(4)[[1, 2, 0, 3]]])
def test_the_axis_order_is_the_same_as_monais(tmp_path, affine):
    case = pair(tmp_path, affine=affine)
    stored = nib.load(case.images[0])

    raw = read_case(case, study_of())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.data.meta_tensor import MetaTensor

        volume = MetaTensor(stored.get_fdata(dtype=np.float32)[None], affine=stored.affine)
        expected = Orientation("RAS")(volume)
    np.testing.assert_array_equal(raw.image, expected.numpy())


def test_shape_and_spacing_follow_the_axes(tmp_path):
    affine = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])

    raw = read_case(pair(tmp_path, affine=affine), study_of())

    assert raw.geometry.shape == SHAPE
    assert raw.geometry.canonical_shape == raw.label.shape == (6, 8, 7)
    assert raw.geometry.canonical_spacing_mm == (3, 1, 2)


def test_several_channels_come_from_several_files(tmp_path):
    paths = [write_nifti(tmp_path / f"{i}.nii", random_image(SHAPE, i)) for i in range(2)]

    image, _ = read_image(paths, study_of(channels=2), "a")

    np.testing.assert_array_equal(image, [random_image(SHAPE, i) for i in range(2)])


def test_several_channels_come_from_the_last_axis_of_one_file(tmp_path):
    folder = decathlon(tmp_path, ("a",), shape=SHAPE, channels=2)
    study = study_of(channels=2)
    (case,) = list_cases(DatasetEntry(folder=str(folder), modality="mr"), study)

    raw = read_case(case, study)

    np.testing.assert_array_equal(raw.image, np.moveaxis(random_image((*SHAPE, 2)), -1, 0))


def test_an_empty_fourth_axis_is_no_channel(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", random_image((*SHAPE, 1, 1)))

    image, geometry = read_image([path], study_of(), "a")

    assert image.shape == (1, *SHAPE)
    assert geometry.shape == SHAPE


def test_a_case_without_label_is_read_without(tmp_path):
    case = replace(pair(tmp_path), label=None)

    assert read_case(case, study_of()).label is None


@pytest.mark.parametrize("shape", [(8, 7), (8, 7, 1)], ids=["two axes", "one slice"])
def test_a_slice_of_a_2d_study_has_two_axes(tmp_path, shape):
    image = random_image(shape)
    case = pair(tmp_path, image, box_label((8, 7)).reshape(shape), affine=LPS)

    raw = read_case(case, study_of(dimensions=2))

    np.testing.assert_array_equal(raw.image, image.reshape(1, 8, 7)[:, ::-1, ::-1])
    assert raw.label.shape == raw.geometry.canonical_shape == (8, 7)
    assert raw.geometry.canonical_spacing_mm == (1.5, 2.0)
    assert raw.geometry.shape == shape


@pytest.mark.parametrize("shape", [(8, 7), (8, 7, 1)], ids=["two axes", "one slice"])
def test_a_coronal_slice_comes_back_as_it_was(tmp_path, shape):
    coronal = np.array([[-1.0, 0, 0, 0], [0, 0, 2.0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    label = box_label((8, 7), ids=(1, 2)).reshape(shape)
    raw = read_case(pair(tmp_path, random_image(shape), label, coronal), study_of(dimensions=2))

    write_label(tmp_path / "back.nii.gz", raw.label, raw.geometry)

    back = nib.load(tmp_path / "back.nii.gz")
    assert raw.geometry.canonical_spacing_mm == (1, 3)
    np.testing.assert_array_equal(np.asarray(back.dataobj), label)


@pytest.mark.parametrize("affine", [np.eye(4), LPS, OBLIQUE], ids=["RAS", "LPS", "oblique"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_label_comes_back_on_the_files_own_grid(tmp_path, affine, ending):
    case = pair(tmp_path, affine=affine)
    raw = read_case(case, study_of())
    path = tmp_path / f"back{ending}"

    write_label(path, raw.label, raw.geometry)

    source, back = nib.load(case.label), nib.load(path)
    assert back.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(source.dataobj))
    np.testing.assert_array_equal(back.affine, source.affine)
    np.testing.assert_allclose(back.get_qform(), source.affine, atol=1e-4)


def test_the_same_label_gives_the_same_bytes_and_leaves_nothing_beside(tmp_path):
    raw = read_case(pair(tmp_path / "in"), study_of())
    paths = [tmp_path / "out" / name for name in ("x.nii.gz", "y.nii.gz")]
    paths[0].parent.mkdir()

    for path in paths:
        write_label(path, raw.label, raw.geometry)

    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["x.nii.gz", "y.nii.gz"]


def test_a_label_that_cannot_be_written_leaves_nothing(tmp_path):
    raw = read_case(pair(tmp_path), study_of())
    (tmp_path / "out.nii.gz").mkdir()

    with pytest.raises(RunError, match="cannot be written"):
        write_label(tmp_path / "out.nii.gz", raw.label, raw.geometry)

    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "label", [np.zeros((2, 2, 2)), np.full(SHAPE, 256), np.full(SHAPE, -1)]
)
def test_a_label_that_does_not_fit_is_not_written(tmp_path, label):
    raw = read_case(pair(tmp_path), study_of())

    with pytest.raises(ValueError, match="label has"):
        write_label(tmp_path / "out.nii", label.astype(np.int16), raw.geometry)


def broken_file(tmp_path, kind):
    path = write_nifti(tmp_path / "bad.nii.gz", random_image(SHAPE))
    whole = path.read_bytes()
    plain = gzip.decompress(whole)
    contents = {
        "cut short": whole[: len(whole) // 2],
        "one byte short": whole[:-9],
        "cut in the header": gzip.compress(plain[:200]),
        "cut before compression": gzip.compress(plain[:-100]),
        "no gzip": plain,
        "text": b"this is no image",
        "empty": b"",
        "bits flipped": whole[:400] + bytes(b ^ 255 for b in whole[400:420]) + whole[420:],
        "unknown type": gzip.compress(plain[:70] + b"\x39\x05" + plain[72:]),
        "negative size": gzip.compress(plain[:42] + b"\xf8\xff" + plain[44:]),
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "cut short",
        "one byte short",
        "cut in the header",
        "cut before compression",
        "no gzip",
        "text",
        "empty",
        "bits flipped",
        "unknown type",
        "negative size",
    ],
)
def test_a_broken_file_is_set_aside_as_unreadable(tmp_path, kind):
    path = broken_file(tmp_path, kind)

    reason, detail = refusal(case_of(path))

    assert reason == "unreadable"
    assert str(path) in detail


def test_an_uncompressed_file_that_is_cut_short_is_unreadable(tmp_path):
    path = write_nifti(tmp_path / "bad.nii", random_image(SHAPE))
    path.write_bytes(path.read_bytes()[:-100])

    assert refusal(case_of(path))[0] == "unreadable"


def test_an_absent_file_and_a_folder_in_its_place_are_unreadable(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()

    for name in ("none.nii.gz", "folder.nii.gz"):
        assert refusal(case_of(tmp_path / name))[0] == "unreadable"


def test_a_file_that_may_not_be_read_is_unreadable(tmp_path, monkeypatch):
    case = pair(tmp_path)

    def forbid(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(nib, "load", forbid)

    reason, detail = refusal(case)
    assert reason == "unreadable"
    assert "Permission denied" in detail


def test_a_label_that_cannot_be_read_is_named(tmp_path):
    case = replace(pair(tmp_path), label=tmp_path / "gone.nii.gz")

    reason, detail = refusal(case)

    assert reason == "unreadable"
    assert "gone.nii.gz" in detail


def test_another_format_is_unreadable(tmp_path):
    nib.save(nib.MGHImage(random_image(SHAPE), np.eye(4)), tmp_path / "a.mgz")

    assert "is not NIfTI" in refusal(case_of(tmp_path / "a.mgz"))[1]


def test_colours_are_no_numbers(tmp_path):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = write_nifti(tmp_path / "a.nii", colours)

    assert "does not hold plain numbers" in refusal(case_of(path))[1]


@pytest.mark.parametrize(
    "row",
    [[0, 0, 0, 0], [1, 0, 0, 0], [np.nan, 1, 0, 0]],
    ids=["zero", "twice the same", "nan"],
)
def test_a_header_without_position_is_unreadable(tmp_path, row):
    path = write_nifti(tmp_path / "a.nii", random_image(SHAPE))
    second_row_at = 296
    patch(path, second_row_at, np.array(row, dtype=np.float32).tobytes())

    reason, detail = refusal(case_of(path))

    assert reason == "unreadable"
    assert "position" in detail


def test_a_compressed_file_that_goes_on_for_ever_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("client.data.nifti.LARGEST_REST_BYTES", 10_000)
    path = write_nifti(tmp_path / "a.nii.gz", random_image(SHAPE))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(20_000)))

    assert refusal(case_of(path))[0] == "unreadable"


def test_a_file_of_absurd_size_is_refused_before_it_is_read(tmp_path, monkeypatch):
    case = pair(tmp_path)
    monkeypatch.setattr("client.data.nifti.LARGEST_VOXELS", 100)

    assert refusal(case)[0] == "too_large"


def test_a_volume_does_not_fit_a_2d_study(tmp_path):
    reason, detail = refusal(pair(tmp_path), study_of(dimensions=2))

    assert reason == "dimensions"
    assert "is a volume of 8x7x6, but the study is 2-D" in detail


@pytest.mark.parametrize("shape", [(8, 7), (8, 7, 6, 2, 2), (8,)])
def test_other_numbers_of_axes_do_not_fit_a_3d_study(tmp_path, shape):
    path = write_nifti(tmp_path / "a.nii", random_image(shape))

    assert refusal(case_of(path))[0] == "dimensions"


def test_another_number_of_channels_than_the_studys_is_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii", random_image((*SHAPE, 3)))

    reason, detail = refusal(case_of(path))

    assert reason == "dimensions"
    assert "case a has 3 image channels, but the study has 1" in detail


def test_a_label_map_with_channels_is_refused(tmp_path):
    label = np.stack([box_label(SHAPE)] * 2, axis=-1)

    assert refusal(pair(tmp_path, label=label))[0] == "dimensions"


def test_image_and_label_of_different_shape_are_refused(tmp_path):
    reason, detail = refusal(pair(tmp_path, label=box_label((8, 7, 5))))

    assert reason == "shape_mismatch"
    assert "a.nii.gz" in detail


@pytest.mark.parametrize(
    "moved",
    [np.diag([1.0, 1, 1.1, 1]), np.diag([-1.0, 1, 1, 1]), np.eye(4) + np.eye(4, k=3) * 0.5],
    ids=["other spacing", "mirrored", "half a voxel aside"],
)
def test_image_and_label_of_different_position_are_refused(tmp_path, moved):
    reason, detail = refusal(pair(tmp_path, label_affine=moved))

    assert reason == "affine_mismatch"
    assert "mm from a_0000.nii.gz" in detail


def test_a_rounding_of_the_position_is_not_refused(tmp_path):
    case = pair(tmp_path, label_affine=np.eye(4) + 1e-4 * np.eye(4, k=3))

    assert read_case(case, study_of()).label is not None


def test_channels_of_different_shape_or_position_are_refused(tmp_path):
    first = write_nifti(tmp_path / "0.nii", random_image(SHAPE))
    smaller = write_nifti(tmp_path / "1.nii", random_image((8, 7, 5)))
    moved = write_nifti(tmp_path / "2.nii", random_image(SHAPE), LPS)
    study = study_of(channels=2)

    assert refusal(case_of((first, smaller)), study)[0] == "shape_mismatch"
    assert refusal(case_of((first, moved)), study)[0] == "affine_mismatch"


@pytest.mark.parametrize("number", [7, 200])
def test_an_id_outside_the_description_is_refused_by_name(tmp_path, number):
    case = pair(tmp_path, label=box_label(SHAPE, ids=(1, number)))

    reason, detail = refusal(case)

    assert reason == "unknown_label"
    assert f"label id {number} in {case.label} is not in the dataset's dataset.json" in detail


@pytest.mark.parametrize("value", [-1.0, 0.5, 1e20])
def test_a_label_value_that_is_no_id_is_refused(tmp_path, value):
    label = box_label(SHAPE).astype(np.float64)
    label[0, 0, 0] = value

    assert refusal(pair(tmp_path, label=label))[0] == "unknown_label"


def test_a_label_stored_as_floats_is_read(tmp_path):
    label = box_label(SHAPE, ids=(1, 2)).astype(np.float64) + 1e-5

    np.testing.assert_array_equal(
        read_case(pair(tmp_path, label=label), study_of()).label, np.rint(label)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_an_image_with_a_voxel_that_is_no_number_is_refused(tmp_path, value):
    image = random_image(SHAPE).astype(np.float64)
    image[1, 2, 3] = value

    assert refusal(pair(tmp_path, image))[0] == "not_finite"


def test_a_label_with_nan_is_refused(tmp_path):
    label = box_label(SHAPE).astype(np.float32)
    label[0, 0, 0] = np.nan

    assert refusal(pair(tmp_path, label=label))[0] == "not_finite"


def test_a_constant_image_is_refused(tmp_path):
    assert refusal(pair(tmp_path, np.full(SHAPE, 5.0, np.float32)))[0] == "constant"


def test_a_constant_channel_is_refused_by_its_file(tmp_path):
    paths = [
        write_nifti(tmp_path / "0.nii", random_image(SHAPE)),
        write_nifti(tmp_path / "1.nii", np.ones(SHAPE, np.float32)),
    ]

    reason, detail = refusal(case_of(paths), study_of(channels=2))

    assert reason == "constant"
    assert str(paths[1]) in detail


def test_odd_headers_leave_no_remark(tmp_path, caplog, capfd):
    image = nib.Nifti1Image(random_image(SHAPE), None)
    image.header["pixdim"][1:4] = 0
    image.header["qform_code"] = 99
    image.header["magic"] = b"n+1"
    image.header["bitpix"] = 7
    payload = image.to_bytes()
    (tmp_path / "a.nii").write_bytes(payload)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image([tmp_path / "a.nii"], study_of(), "a")

    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_an_image_alone_is_read_as_in_its_case(tmp_path):
    case = pair(tmp_path, affine=OBLIQUE)
    raw = read_case(case, study_of())

    image, geometry = read_image(case.images, study_of(), "a")

    np.testing.assert_array_equal(image, raw.image)
    np.testing.assert_array_equal(geometry.affine, raw.geometry.affine)


def test_every_case_of_a_folder_is_read(tmp_path):
    study = study_of()
    entry = DatasetEntry(folder=str(nnunet(tmp_path, file_ending=".nii")), modality="ct")

    assert [read_case(case, study).files.name for case in list_cases(entry, study)] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("hippocampus_mr", ("posterior_hippocampus", "anterior_hippocampus")),
        ("sarcoma_ct", ("gtv",)),
        ("sarcoma_mr", ("gtv",)),
    ],
)
def test_real_cases_are_read_with_the_sizes_and_labels_of_their_table(name, labels):
    study = study_of(*labels)
    folder = real_data(name)
    with (folder / "cases.tsv").open() as file:
        table = {row["case"]: row for row in csv.DictReader(file, delimiter="\t")}

    for case in list_cases(DatasetEntry(folder=str(folder), modality="mr"), study):
        raw, row = read_case(case, study), table[case.name]
        counts = dict(item.split("=") for item in row["label_voxels"].split(";"))
        assert "x".join(map(str, raw.geometry.shape)) == row["shape"]
        spacing = [float(side) for side in row["spacing_mm"].split("x")]
        assert raw.geometry.canonical_spacing_mm == pytest.approx(spacing, abs=1e-3)
        found = {label: int((raw.label == i).sum()) for i, label in enumerate(labels, 1)}
        assert found == {label: int(count) for label, count in counts.items()}
