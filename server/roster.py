"""Whom a run may ask, and how far each is.

In a simulation everybody who is there; at a hub the sites whose people approved the study,
under the names that their certificates carry.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, final

from flwr.serverapp import Grid

from server.registry import ProgressRow, Registry

STARTING_SECONDS = 15.0  # until a site that says it is ready must be connected
LOOK_SECONDS = 0.25


class Roster(Protocol):
    """Who may be asked."""

    @property
    def changes(self) -> bool:
        """Whether sites may come and go while a run lasts."""

    def nodes(self, grid: Grid) -> Mapping[int, str | None]:
        """Return the nodes that may be asked now, each with its site's name if it is known."""

    def progress(self, site: str) -> ProgressRow | None:
        """Return how far a site is in the run; None if that is not known."""


@final
class Everybody:
    """All nodes of a simulation."""

    changes = False

    def nodes(self, grid: Grid) -> Mapping[int, str | None]:
        """Return all nodes; their names come with their answers."""
        return dict.fromkeys(sorted(grid.get_node_ids()))

    def progress(self, site: str) -> ProgressRow | None:
        """Return None: nobody reports."""
        del site
        return None


@final
class ApprovedSites:
    """The sites of a hub that approved one study.

    Args:
        registry: The hub's.
        run: Identifier of the run.
        hash_: What the sites approved, see :func:`common.study.study.approval_hash`.
    """

    changes = True

    def __init__(self, registry: Registry, run: str, hash_: str) -> None:
        self._registry, self._run, self._hash = registry, run, hash_
        self._away: set[int] = set()

    def nodes(self, grid: Grid) -> Mapping[int, str | None]:
        """Return the nodes of sites that approved, are ready and are connected.

        A site that is ready but not connected is probably being started: it is waited for, once
        each time that it is away, or a short round would miss it.
        """
        until = time.monotonic() + STARTING_SECONDS
        while True:
            ready = self._ready()
            connected = set(grid.get_node_ids())
            away = ready.keys() - connected
            if not away - self._away or time.monotonic() > until:
                break
            time.sleep(LOOK_SECONDS)
        self._away = set(away)
        return {node: name for node, name in ready.items() if node in connected}

    def _ready(self) -> dict[int, str | None]:
        there = self._registry.there(self._hash)
        return {int(site.node_id): site.name for site in there if site.node_id}

    def progress(self, site: str) -> ProgressRow | None:
        """Return how far a site said it is."""
        rows = self._registry.rows(ProgressRow, site=site)
        own = next((row for row in rows if row.run == self._run), None)
        if own is None:
            return None
        # a site works for one run at a time: what it does for another is no silence
        return replace(own, moved=max(row.moved for row in rows))
