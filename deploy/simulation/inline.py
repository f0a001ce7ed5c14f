"""Flower's grid in one process: deterministic, and a debugger sees both sides.

A question is answered when its answer is pulled, one at a time, so the hub never holds more
than one answer.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from flwr.app import DEFAULT_TTL, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

APP_RAISED, APP_CRASHED = 2, 8  # Flower's error codes
HUB_NODE = 1

Setting = Mapping[str, bool | float | int | str]


def become_flower_task(node: int) -> None:
    """Give this process the identity that Flower's messages are stamped with."""
    TaskIdentity.run_id = 1
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = node


def node_context(node: int, run_config: Setting) -> Context:
    """Return the context of one simulated site."""
    return Context(
        run_id=1,
        node_id=node,
        node_config={"partition-id": node - HUB_NODE - 1},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def nodes_of(sites: int) -> list[int]:
    """Return the node numbers of so many sites, in their order."""
    return [HUB_NODE + 1 + place for place in range(sites)]


@final
class InlineGrid(Grid):
    """Runs the ClientApp of every node in this process.

    Args:
        app: The real ClientApp.
        sites: How many.
        run_config: What every node's run configuration holds.
    """

    def __init__(self, app: ClientApp, sites: int, run_config: Setting) -> None:
        become_flower_task(HUB_NODE)
        self._app = app
        self._contexts = {n: node_context(n, run_config) for n in nodes_of(sites)}
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """The run that there is."""
        return Run.create_empty(1)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(
            content, dst_node_id, message_type, group_id=group_id, ttl=ttl or DEFAULT_TTL
        )

    def get_node_ids(self) -> Iterable[int]:
        """Return all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; what is still queued from before was given up by the hub."""
        self._waiting.clear()
        return [self._queue(message) for message in messages]

    def _queue(self, message: Message) -> str:
        name = stamp(message)
        self._waiting[name] = message
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer the first queued message of those asked for, and return its answer."""
        for name in message_ids:
            message = self._waiting.pop(name, None)
            if message is not None:
                context = self._contexts[message.metadata.dst_node_id]
                return [answer(self._app, message, context)]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask and wait for all answers."""
        return exchange(self, messages, timeout)


def stamp(message: Message) -> str:
    """Give a message the identifier that Flower's link would give it."""
    name = uuid.uuid4().hex
    message.metadata.__dict__["_message_id"] = name
    return name


def answer(
    app: Callable[[Message, Context], Message], message: Message, context: Context
) -> Message:
    """Run a ClientApp on a message; what it raises becomes Flower's error reply."""
    try:
        return app(message, context)
    except Exception as error:  # noqa: BLE001 - as a SuperNode does
        return Message(Error(APP_RAISED, type(error).__name__), reply_to=message)


def exchange(
    grid: Grid, messages: Iterable[Message], timeout: float | None
) -> Sequence[Message]:
    """Push, then pull until all have answered or the time is over."""
    ends = None if timeout is None else time.monotonic() + timeout
    waiting = set(grid.push_messages(messages))
    found: list[Message] = []
    while waiting and (ends is None or time.monotonic() < ends):
        new = list(grid.pull_messages(list(waiting)))
        waiting -= {message.metadata.reply_to_message_id for message in new}
        found += new
        if not new:
            time.sleep(0.01)
    return found
