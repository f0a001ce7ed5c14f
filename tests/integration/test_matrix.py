"""Every model of a finished run at every site, in a simulation and at a hub."""

import json
import shutil

import pytest
from flwr.app import Context, RecordDict

from client.alone import BEST
from client.app import app as client_app
from client.link import SEPARATOR
from client.worker import SiteWorker
from common.errors import ConsentError, RunError
from common.study.study import canonical_json
from common.tensors import read_tensors
from deploy.cli.federation import matrix_table
from deploy.local import local_federation
from deploy.simulation.inline import HUB_NODE, InlineGrid
from deploy.simulation.simulate import run_simulation
from server.app import app as server_app
from server.matrix import GLOBAL, read_matrix
from server.run import read_run
from server.selection import site_metric
from tests.support.deployment import NEEDS_NGINX
from tests.support.federations import built, phantom_sites, small_study

STUDY = small_study(rounds=2, local="true")


@pytest.fixture(scope="module")
def finished(sites, tmp_path_factory):
    folder = built(STUDY, sites, tmp_path_factory.mktemp("matrix") / "run")
    run_simulation(folder)
    return folder


def evaluate(folder, sites):
    settings = {"run": str(folder), "sites": SEPARATOR.join(map(str, sites)), "action": "matrix",
                "workspace": str((folder / "sites").resolve())}  # fmt: skip
    grid = InlineGrid(client_app, len(sites), settings)
    context = Context(
        run_id=1, node_id=HUB_NODE, node_config={}, state=RecordDict(), run_config=settings
    )
    server_app(grid, context)


def test_a_run_that_is_not_finished_has_no_matrix(sites, tmp_path):
    folder = built(STUDY, sites, tmp_path / "run")

    with pytest.raises(RunError, match="not finished"):
        evaluate(folder, sites)


def test_every_model_is_scored_where_it_knows_the_modality(finished, sites):
    evaluate(finished, sites)

    held = read_matrix(finished)
    assert {model: set(row) for model, row in held.items()} == {
        GLOBAL: {"ct-1", "ct-2", "mr-1", "mr-2"},
        "ct-1": {"ct-1", "ct-2"}, "ct-2": {"ct-1", "ct-2"},
        "mr-1": {"mr-1", "mr-2"}, "mr-2": {"mr-1", "mr-2"},
    }  # fmt: skip
    final = json.loads((finished / "journal/final.json").read_text())["record"]
    for site, told in final.items():
        both = {"federated": GLOBAL, "alone": site}
        for key, model in both.items():
            dice = {s["label"]: s["value"] for s in told[key] if s["metric"] == "dice"}
            again = {s.label: s.value for s in held[model][site].federated}
            assert again == pytest.approx(dice, abs=1e-6)
    assert len(matrix_table(finished).rows) == 5


def test_a_shared_model_is_the_sites_own_and_only_its_modalities(finished, sites):
    evaluate(finished, sites)

    whole = read_tensors(finished / "matrix/ct-1.safetensors")
    alone = read_tensors(finished / "sites/ct-1" / read_run(finished).run / "alone" / BEST)
    best = read_tensors(finished / "models/best.safetensors")
    differing = [n for n in whole if (whole[n] != best[n]).any()]
    assert differing
    assert all((whole[n] == alone[n]).all() for n in differing)


def test_who_refuses_has_no_row_and_is_still_a_column(finished, sites, monkeypatch):
    shutil.rmtree(finished / "matrix", ignore_errors=True)
    share = SiteWorker.share

    def refuse(self, job):
        if self.profile.name == "ct-2":
            raise ConsentError("models not permitted", "no")
        return share(self, job)

    monkeypatch.setattr(SiteWorker, "share", refuse)
    evaluate(finished, sites)

    held = read_matrix(finished)
    assert set(held) == {GLOBAL, "ct-1", "mr-1", "mr-2"}
    assert set(held["ct-1"]) == {"ct-1", "ct-2"}
    assert site_metric(held["ct-1"]["ct-2"].federated) >= 0


@pytest.mark.slow
@NEEDS_NGINX
def test_a_real_federation_shares_models_only_where_that_was_permitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m")
    profiles = phantom_sites(folder / "data", modalities=("ct", "ct", "mr"))
    file = folder / "study.yaml"
    file.write_text(canonical_json(small_study(rounds=1, local="true", minimum=3)))
    with local_federation(folder / "f", profiles) as (federation, names):
        run = federation.start_study(file)
        everything = "updates,metrics,affinities,statistics,models"
        for name in names:
            more = ("--outputs", everything) if name != "ct-2" else ()
            federation.approve(name, run, "--minimum-cases", "1", *more)
        federation.wait_for(run, 120)
        hub = ("--folder", str(federation.hub))
        federation.run("coordinator", "hub", "evaluate", run, *hub)
        federation.wait_for(f"{run}.matrix", 120)
        shown = federation.run("coordinator", "hub", "matrix", run, *hub)

    held = read_matrix(federation.hub / "runs" / run)
    assert {model: set(row) for model, row in held.items()} == {
        GLOBAL: {"ct-1", "ct-2", "mr-1"}, "ct-1": {"ct-1", "ct-2"}, "mr-1": {"mr-1"},
    }  # fmt: skip
    assert "ct-1, alone" in shown
