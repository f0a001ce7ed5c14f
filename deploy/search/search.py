"""A search: what a strategy is given, and whom it tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.study.study import Study
from deploy.search.plan import Plan
from deploy.search.trial import Trial

Heard = Callable[[Mapping[str, float]], None]


class Hopeless(Exception):  # noqa: N818 - a decision, no error
    """Raised by who listens to a federation, to end it between two rounds."""


class Notice(Protocol):
    """Hears how a search goes."""

    def doing(self, words: str) -> None:
        """Hear what is under way."""

    def say(self, words: str) -> None:
        """Hear what people must know, once."""

    def done(self, trial: Trial) -> None:
        """Hear of a trial that has ended."""


class Trainer(Protocol):
    """Trains candidates as federations."""

    def train(self, study: Study, number: int, heard: Heard) -> Path:
        """Take a candidate's run to its end, from where it stands.

        Args:
            study: Of the trial, see :func:`deploy.search.evaluate.proxy`.
            number: Of the trial.
            heard: Gets Dice by round after each round that closes; may raise.

        Returns:
            The run's folder.

        Raises:
            FedsegError: If the run cannot go on.
            Hopeless: If ``heard`` raised it; the run's folder stays whole.
        """

    def folder(self, study: Study, number: int) -> Path:
        """Return the folder of a candidate's run."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """All that a strategy needs.

    Attributes:
        folder: Of the search.
        study: As given; a trial differs from it by its choice and by ``evaluate.proxy``.
        plan: What is searched, how.
        trials: How many are trained in all, those of before an interruption among them.
        trainer: Who trains them.
        notice: Hears how it goes.
    """

    folder: Path
    study: Study
    plan: Plan
    trials: int
    trainer: Trainer
    notice: Notice
