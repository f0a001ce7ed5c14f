"""How long a site is waited for: as long as it moves.

A site's patience is three times its own slowest recent round, within bounds; it starts anew
with every step or byte that the site reports. There is no deadline for a whole round.
"""

import time
from collections import deque
from datetime import datetime
from typing import final

from common.events import HUB, emit
from server.registry import ProgressRow
from server.roster import Roster

SHORTEST_SECONDS = 60.0
FACTOR = 3.0
ROUNDS_KEPT = 3
TELL_SECONDS = 30.0


@final
class Deadlines:
    """Of all sites of one run.

    Args:
        roster: Says how far each is.
        longest_seconds: The study's ``answer_seconds``: patience before anything is known of a
            site, and the most there ever is.
    """

    def __init__(self, roster: Roster, longest_seconds: float) -> None:
        self._roster, self._longest = roster, longest_seconds
        self._took: dict[str, deque[float]] = {}
        self._told: dict[str, float] = {}

    def note(self, site: str, seconds: float) -> None:
        """Remember how long a site took for a round."""
        self._took.setdefault(site, deque(maxlen=ROUNDS_KEPT)).append(seconds)

    def patience(self, site: str) -> float:
        """Return how many seconds a site may be silent."""
        took = self._took.get(site)
        if not took:
            return self._longest
        return min(self._longest, max(SHORTEST_SECONDS, FACTOR * max(took)))

    def overdue(self, site: str, asked_seconds: float) -> bool:
        """Say whether a site was silent for too long, and tell how far it is now and then.

        Args:
            site: Its name.
            asked_seconds: Time since it was asked.
        """
        row = self._roster.progress(site)
        silent = asked_seconds
        if row is not None:
            silent = min(silent, time.time() - row.moved)
            self._tell(site, row, asked_seconds)
        return silent > self.patience(site)

    def _tell(self, site: str, row: ProgressRow, asked_seconds: float) -> None:
        now = time.monotonic()
        if now - self._told.get(site, -TELL_SECONDS) < TELL_SECONDS:
            return
        self._told[site] = now
        emit(HUB, "progress", site=site, words=in_words(row, asked_seconds, time.time()))


def in_words(row: ProgressRow, asked_seconds: float, now: float) -> str:
    """Say how far a site is: ``412 of 800 steps, about 14:20``.

    Args:
        row: What it reported last.
        asked_seconds: Time since it was asked.
        now: Seconds since 1970.
    """
    if row.phase != "training" or not row.total:
        return f"round {row.round}, {row.phase}"
    words = f"round {row.round}, {row.done} of {row.total} steps"
    if row.done and asked_seconds > 0:
        left = asked_seconds * (row.total - row.done) / row.done
        words += f", about {datetime.fromtimestamp(now + left).astimezone():%H:%M}"
    return words
