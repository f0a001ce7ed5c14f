"""Who could not enrol is asked again: soon where it was out of reach, later where it said no."""

from types import SimpleNamespace

import pytest
from flwr.app import Error, RecordDict

from common import protocol
from common.messages import Failure
from server import sites as module
from server.roster import Everybody
from server.sites import GONE, GONE_AGAIN_SECONDS, REFUSED_AGAIN_SECONDS, Sites
from tests.support.studies import enrolment, small_study, table


class Grid:
    """A grid of two nodes, of which one answers what it is told to."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []
        self._questions = {}

    def get_node_ids(self):
        return [1, 2]

    def push_messages(self, messages):
        names = []
        for message in messages:
            self.asked.append(message.metadata.dst_node_id)
            names.append(f"id-{len(self.asked)}")
            self._questions[names[-1]] = message
        return names

    def pull_messages(self, names):
        found = []
        for name in names:
            question = self._questions.pop(name)
            node = question.metadata.dst_node_id
            content = protocol.pack(enrolment("B")) if node == 2 else self.answer
            reply = SimpleNamespace(
                metadata=SimpleNamespace(reply_to_message_id=name),
                has_error=lambda content=content: isinstance(content, Error),
                error=content, content=content,
            )  # fmt: skip
            found.append(reply)
        return found


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(  # Flower's own wants to be made within a run
        module, "Message",
        lambda _content, node, _kind: SimpleNamespace(
            metadata=SimpleNamespace(dst_node_id=node)
        ),
    )  # fmt: skip
    return clock


def sites():
    return Sites(small_study(), "run-1", table(w=("shared", (3,))), Everybody())


@pytest.mark.parametrize("code", GONE)
def test_a_site_that_was_out_of_reach_is_asked_in_the_next_round(clock, code):
    grid, asked = Grid(Error(code=code, reason="x")), sites()

    asked.enrol(grid)
    assert sorted(asked.enrolments) == ["B"]
    assert list(asked.refused)
    clock.now += GONE_AGAIN_SECONDS
    grid.answer = protocol.pack(enrolment("A"))
    asked.enrol(grid)

    assert grid.asked == [1, 2, 1]
    assert sorted(asked.enrolments) == ["A", "B"]


@pytest.mark.parametrize(
    "answer",
    [
        Error(code=7, reason="x"),
        RecordDict(),
        protocol.pack_failure(Failure(code="denied", sentence="no")),
    ],
    ids=["release", "empty", "no"],
)
def test_a_site_that_said_no_is_left_alone_for_a_while(clock, answer):
    grid, asked = Grid(answer), sites()

    asked.enrol(grid)
    clock.now += REFUSED_AGAIN_SECONDS - 1
    asked.enrol(grid)
    assert grid.asked == [1, 2]
    clock.now += 1
    asked.enrol(grid)

    assert grid.asked == [1, 2, 1]
    assert sorted(asked.enrolments) == ["B"]
