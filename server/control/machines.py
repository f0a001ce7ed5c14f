"""Whether two machines report as one site: a folder that was copied, with its keys.

Each reporting process names itself anew at its start. One that was started again takes the
place of the one before, which is never heard again; two that report by turns are two machines.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

WINDOW_SECONDS = 30.0
TURNS = 3  # back to a process that was heard before: an overtaken report makes one or two
LONGEST_NAME = 32


@dataclass
class _Site:
    """What was heard of one site.

    Attributes:
        last: Process that reported last.
        heard: When each was last heard.
        turns: When the site went back to a process that another had followed.
    """

    last: str = ""
    heard: dict[str, float] = field(default_factory=dict)
    turns: list[float] = field(default_factory=list)


@final
class Machines:
    """Who reports as which site.

    Args:
        clock: Seconds; may jump.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sites: dict[str, _Site] = {}
        self._lock = threading.Lock()

    def are_two(self, site: str, instance: str) -> bool:
        """Note a report, and say whether another machine reports as the site too.

        Args:
            site: Its name.
            instance: What the reporting process calls itself; empty of an older fedseg.
        """
        now, name = self._clock(), instance[:LONGEST_NAME]
        with self._lock:
            held = self._sites.setdefault(site, _Site())
            held.heard = {k: t for k, t in held.heard.items() if abs(now - t) < WINDOW_SECONDS}
            held.turns = [t for t in held.turns if abs(now - t) < WINDOW_SECONDS]
            if name and name != held.last and name in held.heard:
                held.turns.append(now)
            if name:
                held.last, held.heard[name] = name, now
            return len(held.turns) >= TURNS
