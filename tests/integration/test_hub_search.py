"""``fedseg hub search`` with the real processes of a hub and two sites."""

import csv
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from client.consent import BEGUN
from common.audit import records_of
from common.study.load import load_study
from common.study.study import approval_hash, canonical_json
from deploy.cli.main import app
from deploy.local import local_federation
from server.registry import FINISHED, QUEUED, STOPPED, RunRow, StudyRow
from server.run import read_run
from tests.support.deployment import NEEDS_NGINX
from tests.support.federations import phantom_sites, small_study

pytestmark = [
    pytest.mark.slow,
    NEEDS_NGINX,
]
HUB = "coordinator"
OPTIONS = ("--trials", "3", "--rounds", "2", "--strategy", "random", "--prune", "none")
MEASURED = {"seconds": "", "round_bytes": ""}


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hs")
    profiles = phantom_sites(folder / "data", modalities=("ct", "mr"))
    with local_federation(folder / "f", profiles) as (federation, names):
        yield federation, names, profiles


def rows_of(folder):
    with (folder / "search.csv").open() as file:
        return [row | MEASURED for row in csv.DictReader(file)]


def test_sites_approve_a_search_once_and_it_finds_what_a_simulation_finds(federation, tmp_path):
    federation, names, profiles = federation
    study, hub, out = tmp_path / "study.yaml", str(federation.hub), tmp_path / "at-hub"
    study.write_text(canonical_json(small_study(minimum=2)))
    asked = ("hub", "search", str(study), "--folder", hub, "--out", str(out), *OPTIONS)

    driver = federation.spawn(HUB, *asked)
    federation.wait(lambda: federation.registry.rows(RunRow), 120, "a trial waits for sites")
    first = federation.registry.rows(RunRow)[0]
    assert first.state == QUEUED
    for name in names:
        federation.approve(name, first.run, "--minimum-cases", "1")
    federation.wait(lambda: len(federation.registry.rows(RunRow)) > 1, 240, "a second trial")
    driver.kill()
    driver.communicate()
    again = federation.spawn(HUB, *asked)
    said = again.communicate(timeout=600)[0].decode()
    assert again.returncode == 0, said

    told = ["search", study, "--out", tmp_path / "simulated", *OPTIONS]
    sites = [part for path in profiles for part in ("--site", path)]
    simulated = CliRunner().invoke(app, list(map(str, [*told, *sites])))
    assert simulated.exit_code == 0, simulated.output
    assert rows_of(out) == rows_of(tmp_path / "simulated")
    runs = federation.registry.rows(RunRow)
    assert [row.state for row in runs] == [FINISHED] * 3
    studies = [read_run(federation.hub / "runs" / row.run).typed_study for row in runs]
    assert len({s.network for s in studies}) == 3
    assert {approval_hash(s) for s in studies} == {first.hash}
    for name in names:
        ledger = records_of(federation.site(name) / "consent" / "ledger.jsonl", None)
        decided = [r["study"] for r in ledger if r["event"] == "approve"]
        begun = {(r["study"], r["run"], r["round"]) for r in ledger if r["event"] == BEGUN}
        assert decided == [first.hash]
        assert begun == {(first.hash, row.run, n) for row in runs for n in (1, 2)}
    assert not federation.registry.rows(StudyRow, open=1)
    assert f"fedseg hub start {out / 'best-study.yaml'} --folder {hub}" in said
    best = load_study(out / "best-study.yaml")
    assert approval_hash(best) != first.hash  # it waits for an approval of its own
    assert best.federation.rounds == 3


def test_a_site_that_limits_its_rounds_ends_a_search_early_and_the_search_says_so(
    federation, tmp_path
):
    federation, names, _ = federation
    study, hub, out = tmp_path / "study.yaml", str(federation.hub), tmp_path / "at-hub"
    study.write_text(canonical_json(replace(small_study(minimum=2), seed=7)))
    before = {row.run for row in federation.registry.rows(RunRow)}
    options = ("--trials", "2", "--rounds", "2", "--strategy", "random", "--over", "loss")

    driver = federation.spawn(
        HUB, "hub", "search", str(study), "--folder", hub, "--out", str(out), *options
    )
    federation.wait(lambda: len(federation.registry.rows(RunRow)) > len(before), 120, "a trial")
    run = next(row.run for row in federation.registry.rows(RunRow) if row.run not in before)
    federation.approve(names[0], run, "--minimum-cases", "1", "--rounds", "2")
    federation.approve(names[1], run, "--minimum-cases", "1")
    said, _ = driver.communicate(timeout=600)

    assert driver.returncode == 0, said.decode()
    first, second = rows_of(out)
    assert (first["state"], second["state"]) == ("complete", "failed")
    assert f"{names[0]}: ConsentError: the rounds that the site approved" in second["why"]
    stopped = federation.registry.rows(RunRow)[-1]
    assert stopped.state == STOPPED
    assert not federation.registry.rows(StudyRow, open=1)
