"""Asking sites and hearing them one by one, so that the hub holds one answer at a time."""

import time
from collections.abc import Iterator, Mapping

from flwr.app import Message
from flwr.serverapp import Grid

PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5


def answers(
    grid: Grid, questions: Mapping[int, Message], *, wait_seconds: float
) -> Iterator[tuple[int, Message | None, float]]:
    """Send one message to each node and yield the answers as they come.

    Args:
        grid: Flower's.
        questions: Message by node.
        wait_seconds: Longest wait for the next answer; an answer that took longer is late.

    Yields:
        Node, its answer (None if there was none in time), seconds since the question.
    """
    started = time.monotonic()
    sent = dict(zip(grid.push_messages(questions.values()), questions, strict=True))
    last, pause = started, PAUSE_SECONDS
    while sent:
        asked = time.monotonic()
        arrived = list(grid.pull_messages(list(sent)))
        now = time.monotonic()
        late = now - last > wait_seconds
        for message in arrived:
            node = sent.pop(message.metadata.reply_to_message_id, None)
            if node is not None:
                yield node, None if late else message, now - started
        if arrived:
            last, pause = time.monotonic(), PAUSE_SECONDS
        elif late:
            break
        else:
            time.sleep(max(0.0, pause - (now - asked)))  # a grid may wait by itself
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
    for node in sent.values():
        yield node, None, time.monotonic() - started
