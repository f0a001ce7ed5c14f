"""``fedseg search`` on real federations of two small sites."""

import csv
import json
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from common.sealed import read_sealed
from common.study.load import load_study
from deploy.cli.main import app
from deploy.search import evaluate, learnt, sampled, space
from deploy.search.sampled import LOG
from server.journal import Chosen, Journal
from server.run import read_run
from tests.support.federations import DEFAULTS, SMALL, phantom_sites


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(SMALL.format(**DEFAULTS))
    return path


@pytest.fixture(scope="module")
def two_sites(tmp_path_factory):
    return phantom_sites(tmp_path_factory.mktemp("data"), modalities=("ct", "mr"))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Search among networks that train in a second."""
    axes = {
        "block": ("plain", "residual", "separable"), "attention": ("none", "se"),
        "bottom": ("block",), "levels": (2, 3), "width": (4, 8),
    }  # fmt: skip
    small = {name: space.OneOf(options) for name, options in axes.items()}
    monkeypatch.setattr(
        sampled, "axes", lambda over: small if over != "loss" else space.axes(over)
    )


def search(study, sites, out, *options):
    given = [part for path in sites for part in ("--site", path)]
    told = ["search", study, *given, "--out", out, *options]
    return CliRunner().invoke(app, list(map(str, told)))


def rows_of(folder):
    with (folder / "search.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_trains_its_trials_and_names_a_study_that_is_the_best(
    study, two_sites, tmp_path
):
    out = tmp_path / "search"

    done = search(study, two_sites, out, "--trials", 3, "--rounds", 2, "--strategy", "nsga2")

    assert done.exit_code == 0, done.output
    rows = rows_of(out)
    trained = [row for row in rows if row["state"] == "complete"]
    assert len(trained) == 3
    for row in trained:
        chosen = Journal(out / "trials" / f"{int(row['trial']):03d}").read("best", Chosen)
        assert float(row["dice"]) == pytest.approx(chosen.best.value, abs=1e-6)
        assert int(row["best_round"]) == chosen.best.round
        mean = (float(row["dice_ct"]) + float(row["dice_mr"])) / 2  # one site of each
        assert float(row["dice"]) == pytest.approx(mean, abs=1e-5)
        assert int(row["round_bytes"]) > 4 * 2 * 2 * int(row["parameters"]) // 2
    best = load_study(out / "best-study.yaml")
    asked = load_study(study)
    winner = max(trained, key=lambda row: float(row["dice"]))
    assert best.network.block == winner["block"]
    assert replace(best, network=asked.network) == asked
    assert yaml.safe_load((out / "best-study.yaml").read_text())["federation"]["rounds"] == 3
    assert done.output.count("trial ") >= len(rows)


def test_a_search_that_was_killed_in_a_round_goes_on_in_that_round(
    study, two_sites, tmp_path, monkeypatch
):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ("--trials", 2, "--rounds", 2, "--strategy", "random")
    assert search(study, two_sites, whole, *options).exit_code == 0
    heard, closed = evaluate._Listener.emit, []

    def kill(self, record):
        heard(self, record)
        closed.extend([record] if record.getMessage() == "round_closed" else [])
        if len(closed) == 3:  # the first of the second trial
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluate._Listener, "emit", kill)
        assert search(study, two_sites, cut, *options).exit_code != 0
    assert not (cut / "search.csv").exists()

    again = search(study, two_sites, cut, *options)

    assert again.exit_code == 0, again.output
    measured = {"seconds": "", "round_bytes": ""}  # a message holds how long it took
    found = [[row | measured for row in rows_of(folder)] for folder in (whole, cut)]
    assert found[0] == found[1]
    log = cut / "trials" / f"{len(rows_of(cut)):03d}" / "hub.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["closed"] for e in events if e["event"] == "run_started"] == [0, 1]
    assert (cut / LOG).exists()
    other = search(study, two_sites, cut, *options, "--prune", "none")
    assert other.exit_code != 0
    assert "another search (prune was median, is none)" in str(other.exception)


def test_a_search_for_a_loss_on_phantoms_of_its_own(study, tmp_path, monkeypatch):
    monkeypatch.setattr("deploy.cli.search.DEMO_CASES", 5)
    monkeypatch.setattr("deploy.cli.search.SITES_OF_A_MODALITY", 1)
    out = tmp_path / "search"

    done = search(study, [], out, "--trials", 1, "--rounds", 1, "--over", "loss", "--quiet")

    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (out / "data").iterdir()) == [
        "ct-1",
        "ct-1.yaml",
        "mr-1",
        "mr-1.yaml",
    ]
    best = load_study(out / "best-study.yaml")
    assert best.loss.name == "sum"
    assert best.network == load_study(study).network


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--over", "data"), "--over: 'data' is not known"),
        (("--strategy", "nsga"), "did you mean nsga2?"),
        (("--pick", "parameters"), "--pick: 'parameters' is not known"),
    ],
    ids=["over", "strategy", "pick"],
)
def test_a_wrong_option_is_refused_before_anything_is_made(
    study, two_sites, tmp_path, options, said
):
    done = search(study, two_sites, tmp_path / "search", *options)

    assert said in str(done.exception)
    assert not (tmp_path / "search").exists()


def test_paths_that_the_sites_learn_become_a_network_that_is_trained(
    study, two_sites, tmp_path, monkeypatch
):
    text = study.read_text()
    start = text.index("network:")
    old = text[start : text.index("\n", start)]
    space = "{name: dints_search, width: 2, blocks: 2, depths: 2, warmup_rounds: 0}"
    study.write_text(text.replace(old, f"network: {space}"))
    out = tmp_path / "search"
    told = ("--strategy", "dints", "--rounds", 2)
    real = evaluate.run_simulation

    def killed(folder, **options):
        if folder.name == "002":
            raise KeyboardInterrupt
        return real(folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "run_simulation", killed)
        search(study, two_sites, out, *told, "--trials", 1)
    assert len(read_sealed(out / learnt.FILE, file=learnt.FILE, run=None)) == 1

    done = search(study, two_sites, out, *told, "--trials", 1)
    more = search(study, two_sites, out, *told, "--trials", 2)

    assert done.exit_code == more.exit_code == 0, done.output + more.output
    rows = rows_of(out)
    assert [row["state"] for row in rows] == ["searched", "complete"] * 2
    spaces = [row for row in rows if row["state"] == "searched"]
    found = [row for row in rows if row["state"] == "complete"]
    assert all(
        int(f["parameters"]) < int(s["parameters"]) for f, s in zip(found, spaces, strict=True)
    )
    weights = [load_study_of(out, row).network.memory_weight for row in spaces]
    assert weights == [0.1, 0.4]
    best = load_study(out / "best-study.yaml")
    winner = max(found, key=lambda row: float(row["dice"]))
    assert best.network.name == "dints"
    assert "-".join("".join(map(str, row)) for row in best.network.paths) == winner["paths"]
    assert replace(best, network=load_study(study).network) == load_study(study)


def load_study_of(out, row):
    return read_run(out / "trials" / f"{int(row['trial']):03d}").typed_study


def test_dints_finds_no_loss(study, two_sites, tmp_path):
    told = ("--strategy", "dints", "--over", "loss")
    done = search(study, two_sites, tmp_path / "search", *told)

    assert done.exit_code != 0
    assert "finds networks only" in str(done.exception) + done.output
