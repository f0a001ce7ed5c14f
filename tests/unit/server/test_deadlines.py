import logging

import pytest

from server import deadlines
from server.deadlines import SHORTEST_SECONDS, Deadlines, in_words
from server.registry import ProgressRow


def row(**changes):
    told = {"site": "A", "run": "r", "round": 3, "phase": "training", "done": 412, "total": 800,
            "bytes_in": 0, "bytes_out": 0, "moved": 1000.0}  # fmt: skip
    return ProgressRow(**{**told, **changes})


class Roster:
    changes = True

    def __init__(self, progress=None):
        self.held = progress

    def progress(self, site):
        return self.held


@pytest.fixture
def now(monkeypatch):
    moment = {"now": 1000.0}
    monkeypatch.setattr(deadlines.time, "time", lambda: moment["now"])
    return moment


def test_before_anything_is_known_the_study_says_how_long():
    waiting = Deadlines(Roster(), 600.0)

    assert not waiting.overdue("A", 599.0)
    assert waiting.overdue("A", 601.0)


def test_a_site_that_moves_is_waited_for_without_end(now):
    waiting = Deadlines(Roster(row(moved=990.0)), 600.0)

    assert not waiting.overdue("A", 1_000_000.0)


def test_a_site_that_stopped_moving_is_not(now):
    waiting = Deadlines(Roster(row(moved=399.0)), 600.0)

    assert waiting.overdue("A", 10_000.0)


def test_old_progress_does_not_count_against_a_new_question(now):
    waiting = Deadlines(Roster(row(moved=1.0)), 600.0)

    assert not waiting.overdue("A", 5.0)


@pytest.mark.parametrize(
    ("rounds", "patience"),
    [
        ([100.0], 300.0),
        ([100.0, 150.0, 90.0, 80.0, 70.0], 270.0),
        ([1.0], SHORTEST_SECONDS),
        ([9e9], 600.0),
    ],
    ids=["three times", "of the last three", "at least a minute", "at most the study's"],
)
def test_patience_comes_from_a_sites_own_rounds(rounds, patience):
    waiting = Deadlines(Roster(), 600.0)
    for seconds in rounds:
        waiting.note("A", seconds)

    assert waiting.patience("A") == patience
    assert waiting.patience("B") == 600.0


def test_how_far_a_site_is_is_told_now_and_then(now, caplog):
    waiting = Deadlines(Roster(row()), 600.0)
    with caplog.at_level(logging.INFO, "fedseg.hub"):
        waiting.overdue("A", 100.0)
        waiting.overdue("A", 101.0)

    (record,) = caplog.records
    assert record.fields["words"].startswith("round 3, 412 of 800 steps, about ")


def test_words_name_the_phase_where_there_are_no_steps():
    assert in_words(row(phase="sending"), 10.0, 0.0) == "round 3, sending"
    assert in_words(row(done=0), 10.0, 0.0) == "round 3, 0 of 800 steps"
