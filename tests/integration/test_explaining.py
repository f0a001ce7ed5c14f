"""``fedseg explain``: pictures at the site, none at the hub."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from client.data.preprocessing import PreparedCase
from client.explanations import COLUMNS, sheet, warmed, window
from common.study.load import parse_study
from deploy.cli.main import app
from deploy.simulation.simulate import run_simulation
from tests.support.federations import DEFAULTS, SMALL, built, phantom_sites

TEXT = SMALL.format(**{**DEFAULTS, "rounds": 2}).replace(
    "name: unet, channels: [4, 8], strides: [2], residual_units: 1, norm: group",
    "name: attention_unet, widths: [4, 8, 8]",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    profiles = phantom_sites(folder / "data", modalities=("ct", "mr"))
    run_simulation(built(parse_study(TEXT), profiles, folder / "run"))
    return folder / "run", profiles


def explain(run, *arguments):
    folder, profiles = run
    return CliRunner().invoke(
        app, ["explain", str(folder), *arguments, "--site", str(profiles[0])]
    )


def test_a_case_is_explained_in_pictures_at_the_site(run, tmp_path, monkeypatch):
    folder, _ = run
    monkeypatch.setenv("FEDSEG_HOME", str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    done = explain(run, "ct-1_001", "--label", "liver", "--label", "spleen")

    assert done.exit_code == 0, done.output
    paths = sorted(tmp_path.glob("ct-1/explanations/*/*.png"))
    assert [p.name for p in paths] == ["ct-ct-1_001-liver.png", "ct-ct-1_001-spleen.png"]
    for path in paths:
        picture = np.asarray(Image.open(path))
        height, width, _ = picture.shape
        assert width == COLUMNS * (192 + 4) - 4  # image, drawn, two levels, guided, two maps
        assert height == 2 * (192 + 16 + 4) - 4
        assert picture.std() > 10
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ct-1_01",), "ct-1: case 'ct-1_01' is not known"),
        (("ct-1_001", "--label", "livre"), "label 'livre' is not known.*did you mean liver"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(run, arguments, words):
    done = explain(run, *arguments)

    assert done.exit_code != 0
    with pytest.raises(Exception, match=words):
        raise done.exception


def case_of(image):
    return PreparedCase(
        files=None, image=image, label=None, reference=None, geometry=None, foreground=(),
        ready=True,
    )  # fmt: skip


def test_the_window_lies_around_where_the_label_was_drawn():
    image = np.arange(400, dtype=np.float32).reshape(1, 20, 20)
    drawn = np.zeros((20, 20), np.int16)
    drawn[14:18, 2:4] = 1

    cut, labels = window(case_of(image), drawn, 1, (8, 8))

    assert cut.shape == (1, 8, 8)
    assert labels.sum() == 8
    assert cut[0, 0, 0] == image[0, 12, 0]  # as near to the middle as the image lets it


def test_a_small_image_is_filled_up_with_its_least_value():
    image = np.full((1, 4, 6), 5.0, np.float32)
    image[0, 0, 0] = -3

    cut, labels = window(case_of(image), np.zeros((4, 6), np.int16), 1, (8, 8))

    assert (cut[0, 4:] == -3).all()
    assert (cut[0, :, 6:] == -3).all()
    assert labels.shape == (8, 8)


def test_where_a_map_is_zero_the_picture_is_grey_and_where_it_is_one_it_is_warm():
    grey = np.array([[100, 100]], np.uint8)
    picture = warmed(grey, np.array([[0.0, 1.0]]))
    assert picture[0, 0].tolist() == [100, 100, 100]
    assert picture[0, 1, 0] > picture[0, 1, 2] + 100


def test_a_sheet_of_a_volume_shows_the_slice_where_the_label_is_fullest():
    image = np.zeros((8, 8, 4), np.float32)
    image[..., 2] = np.eye(8)
    drawn = np.zeros((8, 8, 4), np.int16)
    drawn[2:6, 2:6, 2] = 2
    found = sheet(image, drawn, {"heat": np.zeros((8, 8, 4), np.float32)}, 2)
    assert len(np.unique(found[20:, :190])) > 1  # the diagonal: other slices are black
