import shutil
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StorageError
from common.tensors import digest_of
from server import journal as journals
from server.journal import Best, Chosen, Journal
from tests.support.journals import (
    SCORES,
    accept,
    close,
    dice,
    each_damage,
    everything,
    flip,
    halve,
    put_right,
    remove,
    run_of_rounds,
    told,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four closed rounds of a hundred, and one update of the fifth."""
    journal, _ = run_of_rounds(tmp_path_factory.mktemp("whole") / "run", SCORES)
    accept(journal, number=5)
    return journal.folder


@pytest.fixture
def journal(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return Journal(tmp_path / "run")


# --- the end of a run --------------------------------------------------------------------


@pytest.fixture
def ended(tmp_path):
    """A run whose rounds are all closed, with every figure there is."""
    journal, _ = run_of_rounds(tmp_path / "run", SCORES, planned=4)
    for name in ("last", "alone", "final"):
        journal.write(name, {})
    (journal.folder / "matrix").mkdir()
    journal.seal(journal.folder / "matrix" / "global.json", {})
    return journal


@pytest.mark.parametrize("name", ["last", "alone", "final"])
@pytest.mark.parametrize("damage", [flip, halve])
def test_figures_at_the_end_are_asked_for_again(ended, name, damage):
    damage(ended.record(name))

    assert len(put_right(ended)) == 4
    assert told(ended) == {f"journal/{name}.json": "it is asked for again"}
    held = [n for n in ("last", "alone", "final") if ended.record(n).exists()]
    assert held == [n for n in ("last", "alone", "final") if n != name]


def test_a_damaged_score_of_the_matrix_is_asked_for_again(ended):
    flip(ended.folder / "matrix" / "global.json")

    put_right(ended)

    assert told(ended) == {"matrix/global.json": "it is asked for again"}


def test_figures_of_weights_that_are_no_more_do_not_count(ended):
    flip(ended.model(4))

    assert len(put_right(ended)) == 3
    assert not ended.record("last").exists()
    assert not ended.record("final").exists()
    assert ended.record("alone").exists()
    assert not (ended.folder / "matrix").exists()


def test_an_ended_run_notices_that_its_newest_round_is_gone(ended):
    ended.model(4).unlink()
    ended.round_record(4).unlink()

    assert len(put_right(ended)) == 3
    assert list(told(ended)) == ["journal/round-0004.json"]


# --- the best weights --------------------------------------------------------------------


@each_damage
def test_a_lost_choice_of_the_best_is_made_again(journal, damage):
    before = journal.read("best", Chosen)
    damage(journal.record("best"))

    put_right(journal)

    assert journal.read("best", Chosen) == before
    assert told(journal) == {"journal/best.json": "the best round is chosen again"}


@each_damage
def test_best_weights_that_are_lost_leave_the_best_of_the_others(journal, damage):
    damage(journal.best_model)

    put_right(journal)

    chosen = journal.read("best", Chosen)
    assert chosen.best == Best(round=3, value=0.1)
    assert chosen.digest == digest_of(journal.best_model) == journal.closed_round(3).digest
    assert "tested anew" in told(journal)["models/best.safetensors"]
    assert put_right(journal)
    assert journal.read("best", Chosen) == chosen


def test_best_weights_are_copied_again_while_they_are_there(tmp_path):
    journal, _ = run_of_rounds(tmp_path / "run", (None, 0.1, 0.2, 0.9))
    flip(journal.best_model)

    put_right(journal)

    assert journal.read("best", Chosen).best == Best(round=3, value=0.9)
    assert digest_of(journal.best_model) == journal.closed_round(3).digest
    assert "copied again" in told(journal)["models/best.safetensors"]


def test_the_best_of_a_round_that_is_trained_again_does_not_count(tmp_path):
    journal, _ = run_of_rounds(tmp_path / "run", (None, 0.1, 0.2, 0.9))
    flip(journal.model(3))
    flip(journal.model(4))
    flip(journal.best_model)

    assert put_right(journal) == []
    assert journal.read("best", Chosen).best is None


@pytest.mark.parametrize("copied", [False, True], ids=["before the copy", "after it"])
def test_a_run_killed_while_the_best_was_chosen_is_whole(tmp_path, copied):
    journal, _ = run_of_rounds(tmp_path / "run", (None, 0.1, 0.2))
    close(journal, 4, accept(journal, number=4, scores=(dice(0.9),)))
    if copied:
        journal.keep_best(3)

    put_right(journal)

    assert told(journal) == {}
    assert journal.read("best", Chosen).best == Best(round=3, value=0.9)
    assert digest_of(journal.best_model) == journal.closed_round(3).digest


def test_weights_that_could_become_the_best_are_held_against_their_record(journal):
    flip(journal.model(3))

    assert len(put_right(journal)) == 4
    assert list(told(journal)) == ["models/round-0003.safetensors"]
    assert not journal.model(3).exists()


# --- the log of damage, and crashes in between -------------------------------------------


def test_what_was_found_before_stays_listed(journal):
    flip(journal.round_record(1))
    put_right(journal)
    flip(journal.round_record(2))
    put_right(journal)

    assert {"journal/round-0001.json", "journal/round-0002.json"} <= set(told(journal))


def test_a_damaged_list_of_damage_is_begun_anew(journal):
    flip(journal.round_record(1))
    put_right(journal)
    flip(journal.record("damage"))

    put_right(journal)

    assert list(told(journal)) == ["journal/damage.json"]


def test_a_full_disk_changes_nothing(journal, monkeypatch):
    flip(journal.model(4))
    before = everything(journal.folder)

    def full(*_):
        raise StorageError("full")

    monkeypatch.setattr(Journal, "write", full)
    with pytest.raises(StorageError):
        put_right(journal)
    assert everything(journal.folder) == before


DAMAGES = [
    "models/round-0003.safetensors",
    "models/round-0004.safetensors",
    "models/best.safetensors",
    "journal/round-0001.json",
    "journal/round-0003.json",
    "journal/round-0004.json",
    "journal/round-0005/A.safetensors",
    "journal/best.json",
    "journal/pooled.json",
    "journal/last.json",
    "journal/final.json",
]


class KilledError(Exception):
    pass


def dies_at(patch, name, steps, moment):
    honest = getattr(journals, name)

    def once(*args, **keywords):
        if next(steps) == moment:
            raise KilledError
        return honest(*args, **keywords)

    patch.setattr(journals, name, once)


def state_of(folder):
    """Return all that a run goes on from; not what was set aside, nor what is said of it."""
    return {
        name: content
        for name, content in everything(folder).items()
        if not name.startswith("damaged/")
        and name not in ("journal/damage.json", "journal/best.json")
    }


def best_of(folder):
    return (Journal(folder).read("best", Chosen) or Chosen()).best


def marks_left_out(rounds):
    return [(r.number, r.digest, bool(r.lost)) for r in rounds]


@given(
    damaged=st.lists(st.sampled_from(DAMAGES), min_size=1, unique=True),
    how=st.sampled_from([flip, halve, remove]),
    moment=st.integers(0, 12),
    is_ended=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_killed_while_it_recovers_it_comes_to_the_same_state(
    tmp_path_factory, damaged, how, moment, is_ended
):
    above = tmp_path_factory.mktemp("killed")
    planned = 4 if is_ended else 100
    journal, _ = run_of_rounds(above / "run", SCORES, planned=planned)
    if is_ended:
        for name in ("last", "final"):
            journal.write(name, {})
    else:
        accept(journal, number=5)
    for name in damaged:
        if (journal.folder / name).exists():
            how(journal.folder / name)
    other = shutil.copytree(journal.folder, above / "other" / "run")

    expected = put_right(journal)
    steps = iter(range(100))
    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        for name in ("write_sealed", "sync_folder", "_copy"):  # each write, each move
            dies_at(patch, name, steps, moment)
        put_right(Journal(other))
    rounds = put_right(Journal(other))

    assert marks_left_out(rounds) == marks_left_out(expected)
    assert best_of(other) == best_of(journal.folder)
    one, two = (state_of(folder) for folder in (journal.folder, other))
    assert set(one) == set(two)
    weights = [name for name in one if name.endswith(".safetensors")]
    assert all(one[name] == two[name] for name in weights)
