from dataclasses import replace

import pytest

from common.messages import Accounting, Enrolment, UpdateReport
from server.accounting import accounting_problem

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
