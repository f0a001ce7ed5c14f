"""A search as a whole, its federations replaced by a formula."""

import csv
import sys
from dataclasses import replace

import pytest

from common.errors import InputError, RunError, RunInUseError
from common.study.load import load_study
from deploy.cli.search import show
from deploy.search.files import write_tables
from deploy.search.front import picked
from deploy.search.plan import FILE, check_folder
from deploy.search.pruning import by_halving, by_median
from deploy.search.sampled import LOG
from deploy.search.strategies import STRATEGIES, run_search
from deploy.search.trial import TRAINED
from server.journal import owning
from tests.support.searches import Heard, new_search, outcome, trial, without_training

DRAWN = sorted(set(STRATEGIES) - {"dints"})  # whose points come from the search's space


@pytest.fixture
def sites(tmp_path):
    paths = []
    for modality in ("ct", "mr"):
        (tmp_path / modality).mkdir()
        paths.append(tmp_path / f"{modality}.yaml")
        paths[-1].write_text(
            f"name: {modality}\ndatasets: [{{folder: {modality}, modality: {modality}}}]\n"
        )
    return paths


@pytest.fixture
def trained(monkeypatch):
    return without_training(monkeypatch)


@pytest.mark.parametrize("over", ["network", "loss", "both"])
@pytest.mark.parametrize("strategy", DRAWN)
def test_a_search_that_is_repeated_has_the_same_trials(
    tmp_path, sites, trained, strategy, over
):
    first, again = (
        run_search(new_search(tmp_path / name, sites, strategy=strategy, over=over))
        for name in ("first", "again")
    )

    assert first == again
    assert sum(t.state in TRAINED for t in first) == 12


def test_another_seed_gives_other_trials(tmp_path, sites, trained):
    search = new_search(tmp_path / "one", sites)
    other = new_search(tmp_path / "two", sites, study=replace(search.study, seed=2))

    assert run_search(search) != run_search(other)


@pytest.mark.parametrize("over", ["network", "loss"])
@pytest.mark.parametrize("strategy", DRAWN)
def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(
    tmp_path, sites, trained, strategy, over
):
    choice = {"strategy": strategy, "over": over, "prune": "median"}
    whole = run_search(new_search(tmp_path / "whole", sites, **choice))
    trained.clear()
    for most in (3, 1, 4):
        with pytest.raises(KeyboardInterrupt):
            run_search(new_search(tmp_path / "cut", sites, notice=Heard(most), **choice))

    found = run_search(new_search(tmp_path / "cut", sites, **choice))

    assert found == whole
    assert len(trained) == sum(t.state in TRAINED for t in whole)


@pytest.mark.parametrize("strategy", DRAWN)
def test_a_trial_that_was_under_way_is_asked_anew(tmp_path, sites, monkeypatch, strategy):
    whole, cut = (
        new_search(tmp_path / name, sites, strategy=strategy) for name in ("whole", "cut")
    )
    without_training(monkeypatch)
    expected = run_search(whole)

    asked = []

    def killed(study):
        asked.append(study)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return False

    without_training(monkeypatch, fails=killed)
    with pytest.raises(KeyboardInterrupt):
        run_search(cut)

    assert run_search(cut) == expected
    assert asked[3] == asked[4]


def test_a_line_that_was_half_written_costs_one_trial_and_no_more(tmp_path, sites, trained):
    whole = run_search(new_search(tmp_path / "whole", sites))
    cut = new_search(tmp_path / "cut", sites, trials=5)
    run_search(cut)
    log = cut.folder / LOG
    log.write_bytes(log.read_bytes()[:-20])
    log.with_name(log.name + ".lock").touch()

    assert run_search(replace(cut, trials=12)) == whole


def test_more_trials_are_added_to_those_that_are_there(tmp_path, sites, trained):
    few = run_search(new_search(tmp_path / "s", sites, trials=4))
    more = run_search(new_search(tmp_path / "s", sites, trials=6))

    assert more[: len(few)] == few
    assert sum(t.state in TRAINED for t in more) == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "tpe"}, "strategy was random, is tpe"),
        ({"rounds": 5}, "rounds was 4, is 5"),
        ({"prune": "halving"}, "prune was none, is halving"),
        ({"over": "loss"}, "over was network, is loss, space"),
    ],
)
def test_another_search_is_refused_with_what_differs(tmp_path, sites, trained, changes, said):
    run_search(new_search(tmp_path / "s", sites, trials=1))

    with pytest.raises(InputError, match=said):
        run_search(new_search(tmp_path / "s", sites, trials=1, **changes))


def test_other_sites_and_another_study_are_refused(tmp_path, sites, trained):
    search = new_search(tmp_path / "s", sites, trials=1)
    run_search(search)

    with pytest.raises(InputError, match=r"another search \(study\)"):
        run_search(new_search(tmp_path / "s", sites, study=replace(search.study, seed=5)))
    sites[0].write_text(sites[0].read_text() + "threads: 1\n")
    with pytest.raises(InputError, match=r"another search \(sites\)"):
        run_search(new_search(tmp_path / "s", sites, trials=1))


def test_a_folder_of_something_else_and_one_in_use_are_refused(tmp_path, sites, trained):
    search = new_search(tmp_path / "s", sites, trials=1)
    (search.folder / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"thesis\.txt and is no search"):
        check_folder(search.folder)
    (search.folder / "thesis.txt").unlink()

    with owning(search.folder), pytest.raises(RunInUseError):
        run_search(search)
    assert not (search.folder / FILE).exists()


def test_an_unknown_strategy_is_named_with_its_neighbour(tmp_path, sites):
    with pytest.raises(InputError, match="did you mean nsga2"):
        run_search(new_search(tmp_path / "s", sites, strategy="nsga"))


def test_a_machine_without_optuna_is_told_how_to_have_it(tmp_path, sites, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)

    with pytest.raises(InputError, match=r"pip install 'fedseg\[search\]'"):
        run_search(new_search(tmp_path / "s", sites))


def test_what_cannot_be_trained_costs_no_training_and_says_why(tmp_path, sites, trained):
    found = run_search(new_search(tmp_path / "s", sites, trials=30))

    refused = [t for t in found if t.state == "infeasible"]
    assert {t.why.partition(":")[0] for t in refused} == {"network.name", "training.patch"}
    assert len(trained) == 30


def test_a_choice_that_comes_again_is_not_trained_again(tmp_path, sites, trained, monkeypatch):
    from deploy.search import sampled
    from deploy.search.space import OneOf

    few = {"block": ("plain", "dense"), "attention": ("none",), "bottom": ("block",),
           "levels": (2,), "width": (4,)}  # fmt: skip
    monkeypatch.setattr(sampled, "axes", lambda over: {n: OneOf(o) for n, o in few.items()})

    found = run_search(new_search(tmp_path / "s", sites, trials=5))

    assert len(trained) == 2
    assert {t.state for t in found} == {"complete", "repeated"}
    assert len(found) == found[-1].number < 300


def test_a_trial_that_fails_is_kept_with_its_reason_and_the_others_go_on(
    tmp_path, sites, monkeypatch
):
    without_training(monkeypatch, fails=lambda study: study.network.block == "dense")

    found = run_search(new_search(tmp_path / "s", sites, trials=20))

    failed = [t for t in found if t.state == "failed"]
    assert failed
    assert {t.why for t in failed} == {"RuntimeError: out of memory"}
    assert sum(t.state == "complete" for t in found) == 20 - len(failed)


def test_trials_are_stopped_only_where_smaller_ones_are_better(tmp_path, sites, trained):
    found = run_search(new_search(tmp_path / "s", sites, trials=40, prune="median"))

    stopped = [t for t in found if t.state == "pruned"]
    assert stopped
    for one in stopped:
        assert "median of" in one.why
        earlier = [t for t in found[: one.number] if t.outcome and t.state == "complete"]
        assert any(
            t.outcome.dice > one.outcome.dice and t.outcome.parameters <= one.outcome.parameters
            for t in earlier
        )


def test_the_median_needs_four_trials_and_the_halving_asks_at_rungs():
    low, high = {"1": 0.1, "2": 0.1}, {"1": 0.5, "2": 0.6}

    assert not by_median(low, [high] * 3)
    assert by_median(low, [high] * 4).startswith("round 2: Dice 0.100, below 0.600")
    assert not by_median(low, [high] * 3 + [{"1": 0.9}])
    assert not by_halving(low, [high] * 5)
    assert by_halving({"1": 0.1}, [high]).endswith("no more parameters; the best 1 go on")
    assert not by_halving({"1": 0.5}, [high] * 5)


def test_the_knee_is_the_network_that_is_nearly_as_good_and_much_smaller():
    trials = [trial(1, 0.9, 10**6), trial(2, 0.88, 10**4), trial(3, 0.4, 10**3)]

    assert picked(trials, "dice").number == 1
    assert picked(trials, "knee").number == 2
    assert picked([], "dice") is None


def test_the_files_hold_every_trial_and_a_study_that_can_be_trained(
    tmp_path, sites, trained, capsys
):
    search = new_search(tmp_path / "s", sites, trials=12, over="both", prune="halving")
    found = run_search(search)

    show(search, found, "dice", f"fedseg simulate {{study}} --site {sites[0]}")

    with (search.folder / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [str(t.number) for t in found]
    assert all(row["why"] for row in rows if row["state"] != "complete")
    page = (search.folder / "search.md").read_text()
    assert "## Front" in page
    assert "## Not trained to the end" in page
    best = load_study(search.folder / "best-study.yaml")
    assert best.federation == search.study.federation
    assert best.evaluation == search.study.evaluation
    assert best.loss.name == "sum"
    assert f"--site {sites[0]}" in capsys.readouterr().out


def test_a_search_without_a_trained_trial_writes_its_tables_and_ends_as_failed(tmp_path, sites):
    search = new_search(tmp_path / "s", sites)

    with pytest.raises(RunError, match="no trial was trained to its end: 1 failed"):
        show(search, [replace(trial(1, 0.0, 1), state="failed", outcome=None)], "dice", "")
    assert (search.folder / "search.csv").exists()
    assert not (search.folder / "best-study.yaml").exists()


def test_a_modality_without_a_validation_case_is_an_empty_cell(tmp_path, sites):
    search = new_search(tmp_path / "s", sites)
    only_ct = replace(outcome(0.5, 9), by_modality={"ct": 0.5})

    write_tables(search.folder, search.study, [trial(1, 0.5, 9, outcome=only_ct)], "head")

    with (search.folder / "search.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["dice_ct"], row["dice_mr"]) == ("0.500000", "")
