"""The same grid with its sites spread over worker processes.

Messages cross as Flower's protobuf bytes, never pickled. A process that dies answers with
Flower's error for a crashed app and is started again for the next question; one that is still
busy when the hub has gone on is ended.
"""

import json
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Self, final

from flwr.app import DEFAULT_TTL, Error, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from common.events import HUB, SITE, emit, fields_of
from deploy.simulation.inline import (
    APP_CRASHED,
    HUB_NODE,
    Setting,
    answer,
    become_flower_task,
    exchange,
    node_context,
    nodes_of,
    stamp,
)

EVENT, ANSWER = b"E", b"A"
WAIT_SECONDS = 0.5
END_SECONDS = 5.0


@final
class _Slot:
    """One worker process and the messages that wait for it."""

    def __init__(self, run_config: Setting, threads: int) -> None:
        self._run_config, self._threads = dict(run_config), threads
        self._process: SpawnProcess | None = None
        self.connection: Connection | None = None
        self.waiting: deque[Message] = deque()
        self.asked: Message | None = None

    def feed(self) -> None:
        """Hand the process its next message, starting it where it is not running."""
        if self.asked is not None or not self.waiting:
            return
        if self._process is None or not self._process.is_alive():
            self._start()
        self.asked = self.waiting.popleft()
        if self.connection is not None:
            self.connection.send_bytes(message_to_proto(self.asked).SerializeToString())

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(far, self._run_config, self._threads), daemon=True
        )
        self._process.start()
        far.close()

    def hear(self) -> Message | None:
        """Read what the process sent: an event, an answer, or that it is no more."""
        try:
            data = self.connection.recv_bytes() if self.connection else b""
        except (EOFError, OSError):
            return self._crashed()
        if data[:1] == EVENT:
            _repeat(json.loads(data[1:]))
            return None
        self.asked = None
        return message_from_proto(ProtoMessage.FromString(data[1:]))

    def _crashed(self) -> Message | None:
        asked, self.asked = self.asked, None
        self.end()
        emit(HUB, "worker_crashed")
        if asked is None:
            return None
        return Message(Error(APP_CRASHED, "the worker process ended"), reply_to=asked)

    def end(self) -> None:
        """End the process."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self._process is not None:
            self._process.terminate()
            self._process.join(END_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._process = None
        self.asked = None


@final
class ProcessGrid(Grid):
    """Runs the project's ClientApp in worker processes, each with its own sites.

    Args:
        sites: How many.
        processes: How many workers; a site always runs in the same one.
        run_config: What every node's run configuration holds.
    """

    def __init__(self, sites: int, processes: int, run_config: Setting) -> None:
        become_flower_task(HUB_NODE)
        count = max(1, min(processes, sites))
        threads = max(1, len(os.sched_getaffinity(0)) // count)
        slots = [_Slot(run_config, threads) for _ in range(count)]
        self._slots = {n: slots[i % count] for i, n in enumerate(nodes_of(sites))}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._all():
            slot.end()

    def _all(self) -> list[_Slot]:
        return list(dict.fromkeys(self._slots.values()))

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
        return list(self._slots)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand out messages; a process that still works on an older one is ended."""
        for slot in self._all():
            slot.waiting.clear()
            if slot.asked is not None:
                slot.end()
        names = []
        for message in messages:
            names.append(stamp(message))
            slot = self._slots[message.metadata.dst_node_id]
            slot.waiting.append(message)
            slot.feed()
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Wait a moment for an answer to these messages, repeating events meanwhile."""
        wanted = set(message_ids)
        ends = time.monotonic() + WAIT_SECONDS
        while (left := ends - time.monotonic()) > 0:
            open_ends = {slot.connection: slot for slot in self._all() if slot.connection}
            found = []
            for end in wait(list(open_ends), left):
                slot = open_ends[end]  # type: ignore[index]
                message = slot.hear()
                slot.feed()
                if message is not None and message.metadata.reply_to_message_id in wanted:
                    found.append(message)
            if found or not open_ends:
                return found
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Ask and wait for all answers."""
        return exchange(self, messages, timeout)


class _EventSender(logging.Handler):
    """Sends a worker's events to the main process."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        body: dict[str, Any] = {"event": record.getMessage(), "fields": fields_of(record)}
        if record.exc_info:
            body["fields"]["traceback"] = logging.Formatter().formatException(record.exc_info)
        self._connection.send_bytes(EVENT + json.dumps(body, default=str).encode())


def _repeat(body: dict[str, Any]) -> None:
    emit(SITE, str(body["event"]), **body["fields"])


def _serve(connection: Connection, run_config: Setting, threads: int) -> None:
    """Answer messages until the main process closes its end."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from client.app import app

    SITE.handlers = [_EventSender(connection)]
    SITE.setLevel(logging.INFO)
    SITE.propagate = False
    while True:
        try:
            data = connection.recv_bytes()
        except (EOFError, KeyboardInterrupt):
            return
        message = message_from_proto(ProtoMessage.FromString(data))
        node = message.metadata.dst_node_id
        become_flower_task(node)
        reply = answer(app, message, node_context(node, run_config))
        connection.send_bytes(ANSWER + message_to_proto(reply).SerializeToString())
