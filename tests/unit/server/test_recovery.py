import logging
import math
import shutil

import pytest

from common.errors import DamagedError
from common.messages import Pooled
from common.tensors import digest_of, read_tensors
from server.journal import Best, Chosen, Enrolled, Journal
from tests.support.journals import (
    SCORES,
    accept,
    close_untidily,
    each_damage,
    everything,
    flip,
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


def test_nothing_is_done_to_a_run_that_is_whole(journal, whole):
    put_right(journal)

    assert everything(journal.folder) == everything(whole)


# --- rounds ------------------------------------------------------------------------------


@each_damage
def test_without_its_newest_weights_a_run_goes_on_from_the_round_before(journal, damage):
    damage(journal.model(4))

    rounds = put_right(journal)

    assert [r.number for r in rounds] == [1, 2, 3]
    assert not journal.round_folder(5).exists()
    then = "the run goes on from round 3; round 4 is trained again"
    assert told(journal) == {"models/round-0004.safetensors": then}
    aside = everything(journal.folder / "damaged" / "0001")
    kept = {"journal/round-0004.json", "journal/round-0005/A.json"}
    assert kept | {"journal/round-0005/A.safetensors"} <= set(aside)
    assert ("models/round-0004.safetensors" in aside) == (damage is not remove)


@each_damage
def test_without_its_newest_record_a_run_goes_on_from_the_round_before(journal, damage):
    damage(journal.round_record(4))

    assert len(put_right(journal)) == 3
    then = "the run goes on from round 3; round 4 is trained again"
    assert told(journal) == {"journal/round-0004.json": then}
    assert not journal.model(4).exists()


def test_weights_of_another_round_are_found(journal):
    shutil.copy(journal.model(3), journal.model(4))

    assert len(put_right(journal)) == 3


def test_a_round_is_closed_again_from_its_updates_where_they_are_all_here(tmp_path):
    journal, _ = run_of_rounds(tmp_path / "run", SCORES[:3])
    held = [accept(journal, site, number=4) for site in "AB"]
    close_untidily(journal, 4, *held)
    flip(journal.model(4))

    assert len(put_right(journal)) == 3
    assert list(journal.accepted(4).values()) == held
    then = "round 4 is closed again from its updates, which are all here"
    assert told(journal)["models/round-0004.safetensors"].endswith(then)


def test_where_one_of_its_updates_is_damaged_too_the_others_count(tmp_path):
    journal, _ = run_of_rounds(tmp_path / "run", SCORES[:3])
    held = [accept(journal, site, number=4) for site in "AB"]
    close_untidily(journal, 4, *held)
    flip(journal.model(4))
    flip(journal.update_file(4, "B"))

    put_right(journal)

    assert journal.accepted(4) == {"A": held[0]}
    assert told(journal) == {
        "models/round-0004.safetensors": "the run goes on from round 3; round 4 is taken up "
        "again with those of its updates that are here",
        "journal/round-0004/B.safetensors": "the update of B is asked for again",
    }


@each_damage
@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_older_record_costs_only_what_it_said(journal, damage, number):
    damage(journal.round_record(number))

    rounds = put_right(journal)

    assert len(rounds) == 4
    lost = rounds[number - 1]
    assert lost.lost.startswith("its record ")
    assert (lost.accepted, lost.digest) == ((), "")
    assert math.isnan(lost.seconds)
    assert not any(r.lost for r in rounds if r.number != number)
    assert list(journal.accepted(5)) == ["A"]
    assert f"journal/round-000{number}.json" in told(journal)
    assert journal.read("best", Chosen).best == Best(round=1, value=0.9)
    assert journal.read("best", Chosen).history == {"1": 0.9, "2": 0.2, "3": 0.1}


def test_with_both_kept_weights_lost_the_run_goes_on_from_the_best_round(journal):
    for number in (3, 4):
        flip(journal.model(number))
    best = read_tensors(journal.best_model)["w"]

    rounds = put_right(journal)

    assert len(rounds) == 1
    assert digest_of(journal.model(1)) == rounds[0].digest
    assert (read_tensors(journal.model(1))["w"] == best).all()
    assert "copied from the best" in told(journal)["models/round-0001.safetensors"]


def test_with_all_weights_lost_the_run_begins_again_and_says_so(journal):
    for path in (journal.model(3), journal.model(4), journal.best_model):
        flip(path)

    assert put_right(journal) == []
    then = told(journal)["models/round-0004.safetensors"]
    assert then == "the run goes on from round 0; round 1 is trained again"
    assert not journal.best_model.exists()


def test_weights_of_a_round_that_was_not_closed_yet_are_no_damage(journal, whole):
    shutil.copy(journal.model(4), journal.model(5))

    assert len(put_right(journal)) == 4
    assert told(journal) == {}


def test_a_lost_record_is_noticed_by_the_weights_that_it_leaves(journal):
    shutil.rmtree(journal.round_folder(5))
    journal.round_record(4).unlink()

    assert len(put_right(journal)) == 3
    assert list(told(journal)) == ["journal/round-0004.json"]


# --- what stops --------------------------------------------------------------------------


@each_damage
def test_damaged_initial_weights_stop_the_run_and_nothing_is_changed(journal, damage, caplog):
    damage(journal.model(0))
    before = everything(journal.folder)
    logging.getLogger("fedseg.hub").propagate = True

    with (
        caplog.at_level(logging.INFO, "fedseg.hub"),
        pytest.raises(DamagedError, match="restore it from a backup, or start a new run"),
    ):
        put_right(journal)

    assert everything(journal.folder) == before
    (fields,) = [r.fields for r in caplog.records if r.getMessage() == "journal_damaged"]
    assert fields["file"] == "initial.safetensors"
    assert fields["then"] == "the run stops"


# --- what the sites told -----------------------------------------------------------------


@each_damage
def test_what_was_pooled_is_pooled_again_from_the_same_words(journal, damage):
    before = journal.record("pooled").read_bytes()
    damage(journal.record("pooled"))

    put_right(journal)

    assert journal.record("pooled").read_bytes() == before
    assert "the same numbers" in told(journal)["journal/pooled.json"]


def test_with_what_it_was_made_of_lost_too_the_run_stops(journal):
    for name in ("pooled", "enrolment"):
        flip(journal.record(name), at=40)

    with pytest.raises(DamagedError, match="rounds were trained with it"):
        put_right(journal)
    assert told(journal) == {}


def test_an_enrolment_that_was_written_anew_is_not_pooled_from(journal):
    journal.record("enrolment").unlink()
    put_right(journal)
    assert told(journal) == {
        "journal/enrolment.json": "written again from what the sites say now"
    }
    journal.write("enrolment", Enrolled())
    flip(journal.record("pooled"), at=40)

    with pytest.raises(DamagedError, match="rounds were trained with it"):
        put_right(journal)


@pytest.mark.parametrize("name", ["pooled", "enrolment"])
def test_before_the_first_update_both_are_asked_for_again(tmp_path, name):
    journal, _ = run_of_rounds(tmp_path / "run", ())
    flip(journal.record(name), at=40)

    put_right(journal)

    assert journal.read("pooled", Pooled) is None
    assert list(told(journal)) == [f"journal/{name}.json"]
