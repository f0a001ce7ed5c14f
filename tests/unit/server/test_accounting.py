from dataclasses import replace

import pytest

from common.messages import Accounting, Enrolment, UpdateReport
from server.accounting import accounting_problem, repeated
from server.journal import Accepted, ClosedRound

ENROLMENT = Enrolment(
    site="A", study="h", annotated=("liver",), totals={}, version="1",
    accounting={
        "ct": Accounting(declared=9, usable=8, skipped={"unreadable": 1}, train=5, validation=2, test=1)
    },
)  # fmt: skip
REPORT = UpdateReport(
    site="A", run="r", study="h", round=1, cases={"ct": 5}, used={"ct": 4},
    skipped={"ct": {"unreadable": 1}}, declared={"ct": 9}, not_needed={"ct": 4}, steps=3, loss=1.0,
    seconds={}, scores=(), affinities={},
)  # fmt: skip


def test_a_report_that_adds_up_is_no_problem():
    assert accounting_problem(REPORT, ENROLMENT) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"used": {"ct": 5}}, "9 cases declared, but 5 used, 1 set aside and 4 not needed"),
        ({"used": {}}, "0 used"),
        ({"not_needed": {"ct": 3}}, "3 not needed"),
        ({"skipped": {}}, "0 set aside"),
        (
            {"declared": {"ct": 10}, "not_needed": {"ct": 5}},
            "declares 10 cases, 9 when it enrolled",
        ),
        ({"declared": {}}, "declares none"),
        ({"used": {"ct": -1}, "not_needed": {"ct": 9}}, "-1 used"),
    ],
)
def test_what_does_not_add_up_is_said(change, words):
    assert words in accounting_problem(replace(REPORT, **change), ENROLMENT)


def accepted(site, digest):
    return Accepted(
        report=replace(REPORT, site=site),
        norm=1.0,
        sent=1,
        received=1,
        seconds=1.0,
        digest=digest,
    )


def closed(*updates):
    return ClosedRound(number=1, accepted=updates, refused={}, digest="", seconds=1.0,
                       fold_seconds=0.0, gap_seconds=0.0)  # fmt: skip


def test_honest_updates_are_not_marked():
    held = {"A": accepted("A", "1"), "B": accepted("B", "2")}

    assert repeated(held, [closed(accepted("A", "3"), accepted("B", "4"))]) == {}
    assert repeated(held, []) == {}


def test_copied_weights_mark_both():
    held = {"A": accepted("A", "1"), "B": accepted("B", "1"), "C": accepted("C", "2")}

    assert repeated(held, []) == {
        "A": "its weights are, to the bit, those of B",
        "B": "its weights are, to the bit, those of A",
    }


def test_last_rounds_weights_sent_again_are_marked():
    found = repeated({"A": accepted("A", "1")}, [closed(accepted("A", "1"))])

    assert found == {"A": "its weights are, to the bit, those of the round before"}
