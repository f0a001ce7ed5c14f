"""Whole federations on phantoms: the real two apps, in one process and in several."""

import csv
import json

import numpy as np
import pytest

from common.tensors import TensorFile, read_tensors
from deploy.simulation.simulate import run_simulation
from server.journal import Journal
from tests.support.federations import built, last_weights, phantom_sites, same_bits, small_study


@pytest.fixture(scope="module")
def finished(sites, tmp_path_factory):
    folder = built(small_study(local="true"), sites, tmp_path_factory.mktemp("run") / "run")
    run_simulation(folder)
    return folder


def test_a_run_closes_every_round_with_every_site(finished):
    rounds = Journal(finished).closed_rounds()

    assert [r.number for r in rounds] == [1, 2, 3]
    assert all(
        [a.report.site for a in r.accepted] == ["ct-1", "ct-2", "mr-1", "mr-2"] for r in rounds
    )
    assert all(not r.refused for r in rounds)


def test_the_weights_moved_and_kept_their_kinds(finished):
    before, after = read_tensors(finished / "initial.safetensors"), last_weights(finished)

    assert before.keys() == after.keys()
    assert all(np.isfinite(a).all() for a in after.values())
    assert sum(not np.array_equal(before[n], after[n]) for n in before) > len(before) // 2
    with TensorFile(Journal(finished).model(3)) as file:
        assert (
            json.loads(file.metadata["kinds"])[next(n for n in after if ".bank.ct." in n)]
            == "modality:ct"
        )


def test_ct_norms_differ_from_mr_norms_after_training(finished):
    after = last_weights(finished)
    ct = [n for n in after if ".bank.ct." in n]

    assert ct
    assert any(not np.array_equal(after[n], after[n.replace(".ct.", ".mr.")]) for n in ct)


def test_the_best_round_has_the_highest_mean_validation_dice(finished):
    chosen = json.loads((finished / "journal" / "best.json").read_text())["record"]

    best = max(chosen["history"].values())
    assert chosen["best"]["value"] == best
    assert chosen["history"][str(chosen["best"]["round"])] == best
    assert set(chosen["history"]) == {"1", "2", "3"}
    with TensorFile(finished / "models" / "best.safetensors") as file:
        assert file.metadata["round"] == str(chosen["best"]["round"])


def test_every_site_is_scored_federated_and_alone(finished):
    final = json.loads((finished / "journal" / "final.json").read_text())["record"]

    assert set(final) == {"ct-1", "ct-2", "mr-1", "mr-2"}
    for evaluation in final.values():
        assert {s["metric"] for s in evaluation["federated"]} >= {"dice", "hd95_mm", "missed"}
        assert evaluation["alone"]
        assert [d["label"] for d in evaluation["differences"]] == ["liver", "spleen", "mean"]


def test_the_metrics_table_is_tidy_and_complete(finished):
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))

    assert list(rows[0]) == [
        "round",
        "site",
        "modality",
        "label",
        "metric",
        "value",
        "cases",
        "model",
    ]
    validated = {(r["round"], r["site"]) for r in rows if r["metric"] == "dice"}
    assert validated == {
        (str(n), s) for n in (1, 2, 3) for s in ("ct-1", "ct-2", "mr-1", "mr-2")
    }
    assert {r["model"] for r in rows if r["metric"] == "test_dice"} == {"federated", "alone"}


def test_case_names_stay_at_the_sites(finished, sites):
    hub_files = [
        p
        for p in finished.rglob("*")
        if p.is_file() and "sites" not in p.relative_to(finished).parts
    ]
    secrets = [p.name.split("_0000")[0] for p in sites[0].parent.rglob("imagesTr/*")]
    folder = "imagesTr"

    assert len(secrets) == 20
    for path in hub_files:
        content = path.read_bytes()
        assert not [s for s in (*secrets, folder) if s.encode() in content], path.name


def test_the_logs_are_json_lines_and_the_curves_are_there(finished):
    events = [
        json.loads(line)["event"] for line in (finished / "hub.jsonl").read_text().splitlines()
    ]

    assert events[0] == "run_started"
    assert events[-1] == "run_finished"
    assert events.count("round_closed") == 3
    assert len(list((finished / "tensorboard").iterdir())) == 3


def test_the_same_seed_gives_the_same_bits(sites, tmp_path, finished):
    again = built(small_study(local="true"), sites, tmp_path / "run")

    run_simulation(again)

    assert same_bits(last_weights(finished), last_weights(again))


def test_worker_processes_give_the_same_bits_as_one_process(sites, tmp_path, finished):
    spread = built(small_study(local="true"), sites, tmp_path / "run")

    run_simulation(spread, processes=2)

    assert same_bits(last_weights(finished), last_weights(spread))
    final = [
        json.loads((f / "journal" / "final.json").read_text())["record"]
        for f in (finished, spread)
    ]
    for evaluations in final:
        for evaluation in evaluations.values():
            del evaluation["seconds"]
    assert final[0] == final[1]


@pytest.mark.parametrize("sharing", ["everything", "statistics_local", "local"])
def test_what_is_shared_follows_the_study(sites, tmp_path, sharing):
    folder = built(
        small_study(rounds=2, norm="batch", sharing=sharing), sites, tmp_path / "run"
    )

    run_simulation(folder)

    before, after = read_tensors(folder / "initial.safetensors"), last_weights(folder)
    norms = [n for n in before if ".N." in n or "norm" in n.lower()]
    moved = {n for n in norms if not np.array_equal(before[n], after[n])}
    statistics = {n for n in norms if "running_" in n}
    expected = {
        "everything": set(norms),
        "statistics_local": set(norms) - statistics,
        "local": set(),
    }
    assert statistics
    assert moved <= expected[sharing]
    assert bool(moved) == bool(expected[sharing])


def test_a_site_with_both_modalities_trains_both_banks(tmp_path):
    profiles = phantom_sites(tmp_path / "data", modalities=("ct", "mr"))
    both = profiles[0].with_name("both.yaml")
    ct, mr = ({"folder": f"{m}-1", "modality": m} for m in ("ct", "mr"))
    both.write_text(json.dumps({"name": "both", "datasets": [ct, mr], "threads": 1}))
    folder = built(small_study(rounds=2), [both], tmp_path / "run")

    run_simulation(folder)

    before, after = read_tensors(folder / "initial.safetensors"), last_weights(folder)
    for modality in ("ct", "mr"):
        assert any(
            not np.array_equal(before[n], after[n]) for n in before if f".bank.{modality}." in n
        )


def test_a_head_is_trained_only_by_the_sites_that_annotate_its_label(tmp_path):
    from deploy.phantoms import PhantomPlan, SitePlan, write_phantoms

    plan = PhantomPlan(
        sites=(
            SitePlan(name="all", modality="ct", cases=5),
            SitePlan(name="liver-only", modality="mr", cases=5, not_annotated=("spleen",)),
        ),
        dimensions=2,
        labels=("liver", "spleen"),
        difficulty="easy",
        seed=5,
        size=32,
    )
    folder = built(
        small_study(rounds=1), write_phantoms(tmp_path / "data", plan), tmp_path / "run"
    )

    run_simulation(folder)

    enrolled = json.loads((folder / "journal" / "enrolment.json").read_text())["record"][
        "sites"
    ]
    assert enrolled["liver-only"]["annotated"] == ["liver"]
    scores = json.loads((folder / "journal" / "final.json").read_text())["record"][
        "liver-only"
    ]["federated"]
    assert {s["label"] for s in scores} == {"liver"}


def test_fedprox_stays_nearer_to_where_it_started(sites, tmp_path):
    def moved(name, method):
        folder = built(
            small_study(rounds=2, method=method, optimizer="sgd"), sites, tmp_path / name
        )
        run_simulation(folder)
        before, after = read_tensors(folder / "initial.safetensors"), last_weights(folder)
        return sum(float(((after[n] - before[n]) ** 2).sum()) for n in before)

    assert moved("prox", "{name: fedprox, mu: 50.0}") < moved("plain", "fedavg")
