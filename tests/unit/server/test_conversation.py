import threading

import pytest

from server import conversation
from server.conversation import answers
from server.pulling import AT_ONCE, Pulls


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.naps = []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds


class Answer:
    """As much of a Flower message as the hub looks at."""

    def __init__(self, question):
        self.metadata = self
        self.reply_to_message_id = question


class FakeGrid:
    """Answers each question once its time has come; ``None`` is never.

    Args:
        clock: What time it is.
        due: For each question, in their order, when its answer arrives.
    """

    def __init__(self, clock, *due):
        self.clock, self.due = clock, dict(enumerate(due))
        self.asked = []

    def push_messages(self, messages):
        self.sent = list(messages)
        return [f"id-{i}" for i in range(len(self.sent))]

    def pull_messages(self, names):
        self.asked.append(sorted(names))
        ready = [i for i, due in self.due.items() if due is not None and due <= self.clock.now]
        for i in ready:
            del self.due[i]
        return [Answer(f"id-{i}") for i in ready]


class Quick:
    """Takes questions, names them by number."""

    first = 0

    def push_messages(self, messages):
        return [f"id-{self.first + i}" for i, _ in enumerate(messages)]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(conversation, "time", clock)
    return clock


def asking(grid, wait=10.0):
    questions = {10 + i: f"question {i}" for i in list(grid.due)}
    return answers(grid, questions, wait_seconds=wait)


def test_every_node_is_asked_once_and_answers_as_it_comes(clock):
    grid = FakeGrid(clock, 3.0, 0.0, 1.0)

    heard = [(node, answer is not None) for node, answer, _, _ in asking(grid)]

    assert grid.sent == ["question 0", "question 1", "question 2"]
    assert heard == [(11, True), (12, True), (10, True)]


def test_an_answer_is_handed_on_before_the_next_is_fetched(clock):
    grid = FakeGrid(clock, 0.0, 5.0)

    node, answer, seconds, _ = next(asking(grid))

    assert (node, seconds) == (10, 0.0)
    assert answer is not None
    assert len(grid.asked) == 1


def test_only_what_is_missing_is_asked_for_again(clock):
    grid = FakeGrid(clock, 0.0, 1.0)

    list(asking(grid))

    assert grid.asked[0] == ["id-0", "id-1"]
    assert all(names == ["id-1"] for names in grid.asked[1:])


def test_who_never_answers_is_told_as_missing_after_the_wait(clock):
    heard = list(asking(FakeGrid(clock, 0.0, None), wait=4.0))

    assert [(node, answer is None) for node, answer, _, _ in heard] == [(10, False), (11, True)]
    assert 4.0 < heard[1][2] < 5.0


def test_the_wait_begins_anew_with_every_answer(clock):
    heard = list(asking(FakeGrid(clock, 3.0, 6.0, 9.0), wait=4.0))

    assert all(answer is not None for _, answer, _, _ in heard)


def test_an_answer_found_only_after_the_wait_is_late(clock):
    grid = FakeGrid(clock, 2.0)
    pull = grid.pull_messages

    def slow_pull(names):
        clock.now += 6.0
        return pull(names)

    grid.pull_messages = slow_pull

    ((node, answer, seconds, _),) = asking(grid, wait=4.0)

    assert (node, answer, seconds) == (10, None, 6.0)


def test_the_time_that_the_hub_takes_over_an_answer_is_not_the_sites(clock):
    grid, heard = FakeGrid(clock, 0.0, 20.5), []

    for node, answer, _, _ in asking(grid, wait=4.0):
        heard.append((node, answer is not None))
        clock.now += 20.0

    assert heard == [(10, True), (11, True)]


def test_an_answer_to_something_else_is_passed_over(clock):
    grid = FakeGrid(clock, 1.0)
    pull, strangers = grid.pull_messages, [Answer("a stranger's")]
    grid.pull_messages = lambda names: [strangers.pop()] if strangers else pull(names)

    assert [node for node, _, _, _ in asking(grid)] == [10]


def test_nobody_to_ask_is_no_wait(clock):
    assert list(asking(FakeGrid(clock))) == []
    assert clock.now == 0.0


def test_the_pauses_between_questions_grow_to_a_bound(clock):
    list(asking(FakeGrid(clock, 5.0), wait=100.0))

    assert clock.naps[0] == conversation.PAUSE_SECONDS
    assert clock.naps == sorted(clock.naps)
    assert max(clock.naps) == conversation.LONGEST_PAUSE_SECONDS


def test_one_silent_node_is_given_up_and_the_others_are_waited_for(clock):
    grid, given_up = FakeGrid(clock, None, 30.0), {}
    questions = {10: "question 0", 11: "question 1"}

    heard = list(
        answers(
            grid, questions, wait_seconds=1.0, given_up=given_up,
            overdue=lambda node, seconds: node == 10 and seconds > 5.0,
        )
    )  # fmt: skip

    assert [(h.node, h.message is None) for h in heard] == [(10, True), (11, False)]
    assert 5.0 < heard[0].seconds < 6.0
    assert given_up == {"id-0": 10}


def test_an_answer_to_a_question_that_was_given_up_is_heard_as_late(clock):
    grid, given_up = FakeGrid(clock, 2.0), {"old": 7}
    pull, old = grid.pull_messages, [Answer("old")]
    grid.pull_messages = lambda names: [old.pop()] if old and "old" in names else pull(names)

    heard = list(
        answers(
            grid,
            {10: "question 0"},
            wait_seconds=1.0,
            overdue=lambda *_: False,
            given_up=given_up,
        )
    )

    assert [(h.node, h.late) for h in heard] == [(7, True), (10, False)]
    assert given_up == {}


def test_an_answer_whose_bytes_come_slowly_holds_up_no_other():
    class Grid(Quick):
        def pull_messages(self, names):
            if names == ["id-0"]:
                arrived.wait(30)
            return [Answer(names[0])]

    arrived, grid = threading.Event(), Grid()
    questions = {10: "question 0", 11: "question 1"}
    heard = answers(
        grid, questions, wait_seconds=1.0, overdue=lambda *_: False, pulls=Pulls(grid)
    )
    assert next(heard).node == 11
    arrived.set()
    assert [h.node for h in heard] == [10]


def test_a_slow_answer_that_was_given_up_is_heard_late_in_a_later_round():
    class Grid(Quick):
        def pull_messages(self, names):
            if names == ["id-0"]:
                arrived.wait(30)
            return [Answer(names[0])] if names[0] != "id-1" else []

    arrived, grid, given_up = threading.Event(), Grid(), {}
    pulls = Pulls(grid)
    (first,) = answers(
        grid, {10: "question 0"}, wait_seconds=1.0, overdue=lambda *_: True, pulls=pulls,
        given_up=given_up,
    )  # fmt: skip
    assert (first.node, first.message, given_up) == (10, None, {"id-0": 10})
    arrived.set()
    grid.first = 1
    (late, missing) = answers(
        grid, {11: "question 1"}, wait_seconds=1.0, pulls=pulls, given_up=given_up,
        overdue=lambda _node, seconds: seconds > 0.5,
    )  # fmt: skip
    assert (late.node, late.late, missing.node, missing.message) == (10, True, 11, None)


def test_what_a_pull_raises_is_raised_where_it_is_waited_for():
    class Grid(Quick):
        def pull_messages(self, names):
            raise ConnectionError(names[0])

    with pytest.raises(ConnectionError, match="id-0"):
        Pulls(Grid()).pull(["id-0"], 5.0)


def test_no_more_answers_are_fetched_at_once_than_memory_is_meant_for():
    class Grid(Quick):
        def pull_messages(self, names):
            asked.append(names[0])
            go_on.wait(30)
            return [Answer(names[0])]

    asked, go_on = [], threading.Event()
    pulls, names = Pulls(Grid()), [f"id-{i}" for i in range(9)]
    assert pulls.pull(names, 0.05) == []
    assert len(asked) == AT_ONCE
    go_on.set()
    got = []
    while len(got) < len(names):
        left = [n for n in names if n not in got]
        got += [m.reply_to_message_id for m in pulls.pull(left, 5.0)]
    assert sorted(got) == names
    assert len(asked) == len(set(asked))
