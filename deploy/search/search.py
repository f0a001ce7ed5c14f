"""A search: what a strategy is given, and whom it tells."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.study.study import Study
from deploy.search.evaluate import Sites
from deploy.search.plan import Plan
from deploy.search.trial import Trial


class Notice(Protocol):
    """Hears how a search goes."""

    def doing(self, words: str) -> None:
        """Hear what is under way."""

    def done(self, trial: Trial) -> None:
        """Hear of a trial that has ended."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """All that a strategy needs.

    Attributes:
        folder: Of the search.
        study: As given; a trial differs from it by its choice and by ``evaluate.proxy``.
        sites: Who trains.
        plan: What is searched, how.
        trials: How many are trained in all, those of before an interruption among them.
        processes: Of each federation.
        notice: Hears how it goes.
    """

    folder: Path
    study: Study
    sites: Sites
    plan: Plan
    trials: int
    processes: int
    notice: Notice
