"""Pulling answers apart from one another, so that one that comes slowly holds up nobody else.

Flower shows an answer as soon as its sender has announced it, and a pull of it waits until its
bytes are there: up to minutes, where a site's link was cut while it sent.
"""

import threading
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from common.patience import look_again_after

FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.1, 1.0
AT_ONCE = 4  # as many answers are in memory at most


@final
class Pulls:
    """Pulls of one grid, each in a thread of its own.

    Args:
        grid: Flower's; its pull may be called from several threads.
    """

    def __init__(self, grid: Grid) -> None:
        look_again_after(FIRST_LOOK_SECONDS, LOOK_SECONDS)
        self._grid = grid
        self._ended: SimpleQueue[tuple[str, list[Message] | BaseException]] = SimpleQueue()
        self._under_way: set[str] = set()
        self._asked: dict[str, float] = {}

    def pull(self, names: Iterable[str], seconds: float) -> list[Message]:
        """Return what has arrived of the answers to these questions.

        Args:
            names: Flower's names of the questions; those asked longest ago come first.
            seconds: Longest wait where nothing has.

        Raises:
            Exception: What Flower raised in a pull.
        """
        for name in sorted(names, key=lambda name: self._asked.get(name, 0.0)):
            if len(self._under_way) < AT_ONCE and name not in self._under_way:
                self._under_way.add(name)
                self._asked[name] = time.monotonic()
                # a daemon: a pull that waits must not keep a run that has ended alive
                threading.Thread(target=self._pull, args=(name,), daemon=True).start()
        arrived: list[Message] = []
        until = time.monotonic() + seconds
        while self._under_way:
            try:
                name, found = self._ended.get(timeout=max(until - time.monotonic(), 0.0))
            except Empty:
                break
            self._under_way.discard(name)
            if isinstance(found, BaseException):
                raise found
            arrived += found
            if arrived:
                until = 0.0  # take what else has ended, and wait for no more
        return arrived

    def _pull(self, name: str) -> None:
        found: list[Message] | BaseException
        try:
            found = list(self._grid.pull_messages([name]))
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            found = error
        self._ended.put((name, found))
