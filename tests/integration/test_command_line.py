"""``fedseg`` as a person runs it: what it prints, how it ends, what it leaves."""

import json
import os
import resource
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from deploy.cli.main import run
from deploy.simulation.simulate import run_simulation
from tests.support.federations import DEFAULTS, SMALL, built, phantom_sites, small_study


def fedseg(*arguments, cwd=None, limit=None):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "deploy.cli.main", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        preexec_fn=limit,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def told(monkeypatch, capsys):
    """Run a command in this process, where a whole one would only import torch once more."""

    def run_it(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run()
        found = capsys.readouterr()
        code = ended.value.code or 0
        return subprocess.CompletedProcess(arguments, code, found.out, found.err)

    return run_it


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(SMALL.format(**DEFAULTS))
    return path


@pytest.fixture(scope="module")
def finished(sites, tmp_path_factory):
    folder = built(small_study(local="true"), sites, tmp_path_factory.mktemp("cli") / "run")
    run_simulation(folder)
    return folder


@pytest.fixture
def own_sites(tmp_path):
    """Sites that a test may damage."""
    return phantom_sites(tmp_path / "data", modalities=("ct", "mr"))


def simulate(study, sites, out, *, by=fedseg, **keywords):
    given = [part for path in sites for part in ("--site", path)]
    return by("simulate", study, *given, "--out", out, **keywords)


def test_the_starter_study_is_valid_and_described_in_words(tmp_path, told):
    assert told("study", "new", tmp_path / "new.yaml").returncode == 0

    done = told("study", "check", tmp_path / "new.yaml")

    assert done.returncode == 0
    assert "1,402,629 parameters" in done.stdout
    assert "MiB to a site" in done.stdout
    assert "hash" in done.stdout
    assert told("study", "new", tmp_path / "new.yaml").returncode == 2


def test_a_simulation_ends_with_a_table_and_a_report(study, own_sites, tmp_path):
    done = simulate(study, own_sites, tmp_path / "run")

    assert done.returncode == 0, done.stderr
    assert "Dice on held-out cases" in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "\x1b[" not in done.stdout


def test_all_problems_of_a_study_are_said_at_once_and_nothing_starts(
    study, own_sites, tmp_path, told
):
    study.write_text(
        study.read_text().replace("rounds: 3", "round: 3").replace("batch: 2", "batch: two")
    )

    done = simulate(study, own_sites, tmp_path / "run", by=told)

    assert done.returncode == 2
    assert "did you mean rounds?" in done.stderr
    assert "training.batch" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_modality_without_a_site_and_a_label_without_annotation_are_refused(
    study, own_sites, tmp_path, told
):
    study.write_text(study.read_text().replace("[liver, spleen]", "[liver, spleen, pancreas]"))
    ct = own_sites[0]
    ct.write_text(ct.read_text().replace("not_annotated: []", "not_annotated: [pancreas]"))

    done = simulate(study, [ct], tmp_path / "run", by=told)

    assert done.returncode == 2
    assert "modalities.mr: no site has this modality" in done.stderr
    assert "no site annotates pancreas" in done.stderr


def test_a_prediction_has_the_geometry_of_its_image(finished, sites, tmp_path, told):
    image = next((sites[0].parent / "mr-1" / "imagesTr").iterdir())

    done = told("predict", finished, image, "--modality", "mr", "-o", tmp_path / "out.nii.gz")

    assert done.returncode == 0, done.stderr
    source, label = nib.load(image), nib.load(tmp_path / "out.nii.gz")
    assert label.shape == source.shape
    np.testing.assert_allclose(label.affine, source.affine)
    assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2}


def test_a_prediction_for_an_unknown_modality_names_the_known_ones(
    finished, sites, tmp_path, told
):
    image = next((sites[0].parent / "mr-1" / "imagesTr").iterdir())

    done = told("predict", finished, image, "--modality", "mri", "-o", tmp_path / "out.nii.gz")

    assert (done.returncode, (tmp_path / "out.nii.gz").exists()) == (2, False)
    assert "known: ct, mr; did you mean mr?" in done.stderr


def test_evaluate_scores_a_site_as_the_run_did(finished, sites, tmp_path, told):
    done = told("evaluate", finished, "--site", sites[0], "-o", tmp_path)

    assert done.returncode == 0, done.stderr
    final = json.loads((finished / "journal" / "final.json").read_text())["record"]["ct-1"][
        "federated"
    ]
    for score in final:
        if score["metric"] == "dice":
            assert f"{score['value']:.3f}" in done.stdout


@pytest.mark.parametrize("command", ["networks", "losses", "methods"])
def test_what_a_study_can_name_is_listed(command, told):
    done = told(command)

    assert done.returncode == 0
    for name in {
        "networks": ("unet", "basic_unet", "dynunet"),
        "losses": ("dice_ce", "dice", "cross_entropy"),
        "methods": ("fedavg", "fedprox", "per_modality", "statistics_local"),
    }[command]:
        assert name in done.stdout


def damage_truncate(folder):
    path = min((folder / "imagesTr").iterdir())
    path.write_bytes(path.read_bytes()[:200])


def damage_nan(folder):
    rewrite(
        folder,
        lambda data: np.where(np.arange(data.size).reshape(data.shape) == 5, np.nan, data),
    )


def damage_constant(folder):
    rewrite(folder, lambda data: data * 0 + 7)


def damage_label_id(folder):
    path = min((folder / "labelsTr").iterdir())
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[0, 0] = 9
    nib.save(nib.Nifti1Image(data, image.affine), path)


def damage_volume(folder):
    path = min((folder / "imagesTr").iterdir())
    nib.save(
        nib.Nifti1Image(
            np.random.default_rng(0).normal(size=(32, 32, 9)).astype(np.float32), np.eye(4)
        ),
        path,
    )


def rewrite(folder, change):
    path = min((folder / "imagesTr").iterdir())
    image = nib.load(path)
    nib.save(
        nib.Nifti1Image(change(np.asarray(image.dataobj).astype(np.float32)), image.affine),
        path,
    )


DAMAGES = {"unreadable": damage_truncate, "not_finite": damage_nan, "constant": damage_constant,
           "unknown_label": damage_label_id, "dimensions": damage_volume}  # fmt: skip


@pytest.mark.parametrize(("reason", "damage"), DAMAGES.items(), ids=DAMAGES)
def test_one_bad_case_is_set_aside_with_its_reason_and_the_run_ends(
    own_sites, tmp_path, reason, damage
):
    damage(own_sites[0].parent / "ct-1")
    folder = built(small_study(rounds=1), own_sites, tmp_path / "run")

    run_simulation(folder)

    account = json.loads((folder / "journal" / "enrolment.json").read_text())["record"][
        "sites"
    ]["ct-1"]["accounting"]["ct"]
    assert account["skipped"] == {reason: 1}
    assert account["declared"] == account["usable"] + 1 == 5
    assert reason in (folder / "sites" / "sites.jsonl").read_text()


def test_an_empty_dataset_is_one_clear_line(study, own_sites, tmp_path, told):
    for path in (own_sites[0].parent / "ct-1" / "imagesTr").iterdir():
        path.unlink()

    done = simulate(study, own_sites, tmp_path / "run", by=told)

    assert done.returncode == 2
    assert "ct-1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_ends_with_one_clear_line_and_no_half_written_file(
    study, own_sites, tmp_path
):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = simulate(study, own_sites, tmp_path / "run", limit=limit)

    assert done.returncode == 4, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("*.part*"))
    assert not (tmp_path / "run" / "initial.safetensors").exists()


def test_a_folder_that_holds_something_is_refused(study, own_sites, tmp_path, told):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.docx").write_text("do not lose me")

    done = simulate(study, own_sites, tmp_path / "run", by=told)

    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.docx"]


def test_a_run_goes_on_after_the_disk_was_full(own_sites, tmp_path, told):
    folder = built(small_study(rounds=1), own_sites, tmp_path / "run")
    shutil.copytree(folder, tmp_path / "twin")

    assert told("simulate", "--resume", folder).returncode == 0
    assert told("simulate", "--resume", tmp_path / "twin", "--processes", 2).returncode == 0
    assert told("report", folder).returncode == 0


@pytest.mark.parametrize("sharing", ["local", "statistics_local"])
def test_evaluate_and_predict_use_the_norms_that_a_site_kept(
    own_sites, tmp_path, sharing, told
):
    folder = built(
        small_study(rounds=2, sharing=sharing, norm="batch"), own_sites, tmp_path / "run"
    )
    run_simulation(folder)
    image = next((own_sites[0].parent / "mr-1" / "imagesTr").iterdir())

    scored = told("evaluate", folder, "--site", own_sites[1], "-o", tmp_path / "out")
    without = told("predict", folder, image, "--modality", "mr", "-o", tmp_path / "a.nii.gz")
    using = told(
        "predict",
        folder,
        image,
        "--modality",
        "mr",
        "-o",
        tmp_path / "a.nii.gz",
        "--site",
        "mr-1",
    )

    final = json.loads((folder / "journal" / "final.json").read_text())["record"]["mr-1"][
        "federated"
    ]
    assert all(f"{s['value']:.3f}" in scored.stdout for s in final if s["metric"] == "dice")
    assert (without.returncode, using.returncode) == (2, 0)
    assert "known: ct-1, mr-1" in without.stderr


def test_a_modality_with_too_few_sites_is_refused_before_anything_starts(
    study, own_sites, tmp_path, told
):
    study.write_text(
        study.read_text().replace(
            "minimum_sites_per_modality: 1", "minimum_sites_per_modality: 2"
        )
    )

    done = simulate(study, own_sites, tmp_path / "run", by=told)

    assert done.returncode == 2
    assert "minimum_sites_per_modality: is 2, but 1 sites with ct are given" in done.stderr
