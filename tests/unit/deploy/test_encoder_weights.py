"""A study that names a file of weights, and the commands that are given one."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from common.errors import InputError, StudyError
from common.study import canonical_json, parse_study, study_hash
from common.study.study import as_plain
from common.study.transfer import PretrainedUNet
from common.tensors import read_tensors
from deploy.cli.main import app
from deploy.simulation.build import build_run
from deploy.simulation.encoder_weights import read_encoder
from deploy.supervise.desk import make_hub, start_study
from deploy.supervise.hub_folder import HubSettings
from tests.support.classifiers import classifier
from tests.support.federations import small_study

SAID = "36 of 36 encoder tensors taken; 38 of the file not used"


def publish(held, path):
    """Write what is held as classifiers are published."""
    torch.save(held, path)  # noqa: TID251


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def study_of(sha256, **changes):
    study = small_study()
    network = PretrainedUNet(
        encoder="resnet10", decoder=(8,) * 5, weights_sha256=sha256, **changes
    )
    training = replace(study.training, patch=(64, 64))
    return replace(study, network=network, training=training)


def written(study, folder):
    path = folder / "study.yaml"
    path.write_text(json.dumps(as_plain(study)))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same classifier in both forms."""
    folder, state = tmp_path_factory.mktemp("weights"), classifier().state_dict()
    save_file(state, folder / "a.safetensors")
    publish(state, folder / "a.pth")
    return {"safetensors": folder / "a.safetensors", "pth": folder / "a.pth"}


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_initial_weights_start_from_the_file_that_the_study_names(files, form, tmp_path):
    said, file = [], files[form]
    study = study_of(digest(file))

    build_run(study, tmp_path / "run", {}, encoder=file, told=said.append)

    initial, state = (
        read_tensors(tmp_path / "run" / "initial.safetensors"),
        classifier().state_dict(),
    )
    kernel = state["layer2.0.conv2.weight"].numpy()
    assert (initial["encoder.layer2.0.conv2.weight"] == kernel).all()
    for modality in ("ct", "mr"):
        scale = initial[f"encoder.layer2.0.bn2.bank.{modality}.weight"]
        assert (scale == state["layer2.0.bn2.weight"].numpy()).all()
    assert said == [SAID]


def test_the_file_is_part_of_what_a_hospital_approves(files):
    named, none = study_of(digest(files["pth"])), study_of("")

    assert study_hash(named) != study_hash(none)
    assert parse_study(canonical_json(named)) == named


@pytest.mark.parametrize("wrong", ["a" * 63, "A" * 64, "../weights.pth"])
def test_what_is_no_digest_is_refused_with_the_study(wrong):
    with pytest.raises(
        StudyError, match=r"network.weights_sha256: .*expected 64 of 0-9 and a-f"
    ):
        parse_study(canonical_json(study_of(wrong)))


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("encoder_rate", 1.5, "encoder_rate: is 1.5, expected 0.0 to 1.0"),
        ("frozen_rounds", -1, "frozen_rounds: is -1, expected 0 to 100000"),
        ("decoder", (8, 8), "decoder: has 2 entries, expected 5"),
    ],
)
def test_what_it_cannot_be_built_of_is_told_with_its_field(field, value, told):
    study = study_of("")
    wrong = replace(study, network=replace(study.network, **{field: value}))

    with pytest.raises(StudyError, match=told):
        parse_study(canonical_json(wrong))


# --- refusals ------------------------------------------------------------------------------------


def refused(study, folder, file):
    with pytest.raises(InputError) as caught:
        build_run(study, folder / "run", {}, encoder=file)
    assert not (folder / "run").exists()
    return str(caught.value)


def test_a_study_that_names_a_file_is_not_built_without_it(tmp_path):
    told = refused(study_of("ab" * 32), tmp_path, None)

    assert "network.weights_sha256: the study names a file of weights, abababababab" in told
    assert "--encoder-weights FILE" in told


def test_another_file_is_refused_with_both_digests(files, tmp_path):
    told = refused(study_of("ab" * 32), tmp_path, files["pth"])

    assert digest(files["pth"]) in told
    assert "ab" * 32 in told


def test_a_file_that_no_study_names_is_refused_with_what_to_write(files, tmp_path):
    told = refused(study_of(""), tmp_path, files["pth"])
    other = refused(small_study(), tmp_path, files["pth"])

    assert digest(files["pth"]) in told
    assert "the study names no weights" in told
    assert "network pretrained_unet" in other


def test_a_file_that_is_not_there_is_told(tmp_path):
    assert "is no file of weights" in refused(study_of("ab" * 32), tmp_path, tmp_path / "b.pth")


class Code:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


DAMAGED = {
    "not safetensors": ("b.safetensors", lambda path, _: path.write_bytes(b"x" * 64), "is not a"),
    "no state dict": ("b.pth", lambda path, _: path.write_bytes(b"x" * 64), "cannot be read as"),
    "a list": ("b.pth", lambda path, _: publish([1, 2], path), "holds no state dict"),
    "a checkpoint": (
        "b.pth", lambda path, _: publish({"state_dict": {}}, path), "holds no state dict"),
    "code": ("b.pth", lambda path, trap: publish({"a": Code(trap)}, path), "cannot be read as"),
    "another tensor": (
        "b.pth",
        lambda path, _: publish(classifier("resnet18").state_dict(), path),
        "layer1.1.conv1.weight: is not of this encoder"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "write", "told"), DAMAGED.values(), ids=DAMAGED)
def test_a_file_that_holds_something_else_is_told_and_runs_nothing(name, write, told, tmp_path):
    path, trap = tmp_path / name, tmp_path / "trap"
    write(path, trap)

    assert f"{path}: " in (said := refused(study_of(digest(path)), tmp_path, path))
    assert told in said
    assert not trap.exists()


def test_studies_of_other_networks_need_no_file():
    assert read_encoder(small_study(), None) is None
    assert read_encoder(study_of(""), None) is None


# --- commands ------------------------------------------------------------------------------------


def test_study_build_takes_the_file_and_says_how_much_of_it(files, tmp_path):
    file = written(study_of(digest(files["pth"])), tmp_path)
    given = ["study", "build", str(file), "--out", str(tmp_path / "run")]

    done = CliRunner().invoke(app, [*given, "--encoder-weights", str(files["pth"])])

    assert done.exit_code == 0
    assert SAID in done.output
    assert isinstance(CliRunner().invoke(app, given).exception, InputError)


def test_a_hub_takes_the_file_with_the_study_but_not_with_a_built_one(files, tmp_path):
    hub = make_hub(tmp_path / "hub", HubSettings(address="localhost:1443", listen="127.0.0.1"))
    study, said = study_of(digest(files["safetensors"])), []
    file = written(study, tmp_path)

    with pytest.raises(InputError, match="--encoder-weights"):
        start_study(hub, file, "")
    row = start_study(hub, file, "", encoder=files["safetensors"], told=said.append)
    build_run(study, tmp_path / "built", {}, encoder=files["safetensors"])
    with pytest.raises(InputError, match="is built already"):
        start_study(hub, tmp_path / "built", "", encoder=files["safetensors"])

    assert row.hash == study_hash(study)
    assert said == [SAID]


def test_a_run_that_goes_on_takes_no_file(files, tmp_path):
    given = ["simulate", "--resume", str(tmp_path), "--encoder-weights", str(files["pth"])]

    done = CliRunner().invoke(app, given)

    assert done.exit_code == 2
    assert "give it alone" in done.output
