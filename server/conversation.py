"""Asking sites and hearing them one by one, so that the hub holds one answer at a time."""

import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from server.pulling import Pulls

PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5


class Heard(NamedTuple):
    """What one node said.

    Attributes:
        node: Flower's name of it.
        message: Its answer; None if there was none in time.
        seconds: Since the questions were sent.
        late: Whether it answers a question that the hub had given up.
    """

    node: int
    message: Message | None
    seconds: float
    late: bool = False


def answers(
    grid: Grid,
    questions: Mapping[int, Message],
    *,
    wait_seconds: float,
    overdue: Callable[[int, float], bool] | None = None,
    given_up: MutableMapping[str, int] | None = None,
    pulls: Pulls | None = None,
) -> Iterator[Heard]:
    """Send one message to each node and yield the answers as they come.

    Args:
        grid: Flower's.
        questions: Message by node.
        wait_seconds: Longest wait for the next answer of anybody; an answer that took longer is
            late. Not used where ``overdue`` is given.
        overdue: (node, seconds since it was asked) to whether it is not waited for any longer.
        given_up: Nodes of questions that were given up, by message; filled and emptied here.
        pulls: How the grid is asked, where one answer must not hold up the others.
    """
    started = time.monotonic()
    given_up = {} if given_up is None else given_up
    sent = dict(zip(grid.push_messages(questions.values()), questions, strict=True))
    last, pause = started, PAUSE_SECONDS
    while sent:
        asked = time.monotonic()
        names = [*sent, *given_up]
        arrived = pulls.pull(names, pause) if pulls else list(grid.pull_messages(names))
        now = time.monotonic()
        late = overdue is None and now - last > wait_seconds
        for message in arrived:
            name = message.metadata.reply_to_message_id
            if (node := sent.pop(name, None)) is not None:
                yield Heard(node, None if late else message, now - started)
            elif (node := given_up.pop(name, None)) is not None:
                yield Heard(node, message, now - started, late=True)
        if overdue is not None:
            yield from _drop(sent, given_up, now - started, overdue)
        if arrived:
            last, pause = time.monotonic(), PAUSE_SECONDS
        elif late:
            break
        else:
            time.sleep(max(0.0, pause - (now - asked)))  # a grid may wait by itself
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
    for name, node in sent.items():
        given_up[name] = node
        yield Heard(node, None, time.monotonic() - started)


def _drop(
    sent: dict[str, int],
    given_up: MutableMapping[str, int],
    seconds: float,
    overdue: Callable[[int, float], bool],
) -> Iterator[Heard]:
    for name, node in list(sent.items()):
        if overdue(node, seconds):
            given_up[name] = sent.pop(name)
            yield Heard(node, None, seconds)
