"""Candidates trained by the code of ``fedseg simulate``, and what came of them."""

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from client.link import forget_workers
from common.errors import FedsegError, RunError
from common.events import HUB
from common.messages import Evaluation, Score
from common.study.study import Study, study_hash
from deploy.search.plan import Sites
from deploy.search.search import Heard
from deploy.search.trial import Outcome
from deploy.simulation.simulate import run_simulation, start_run
from server.journal import Chosen, ClosedRound, Journal
from server.run import read_run
from server.selection import best_in, history_of, mean_metric


def proxy(study: Study, rounds: int) -> Study:
    """Return the study as a trial trains it: fewer rounds, each scored, no site alone.

    The division of the people stays the study's, so that its test people train nothing.
    """
    return replace(
        study,
        federation=replace(study.federation, rounds=rounds),
        evaluation=replace(study.evaluation, every=1, local=False),
    )


def parameters_of(study: Study) -> int:
    """Build the network and count what is trained."""
    from common.networks import build_network

    return sum(p.numel() for p in build_network(study).parameters() if p.requires_grad)


@dataclass(frozen=True)
class Simulated:
    """Trains candidates on sites whose profiles are on this machine.

    Attributes:
        trials: Folder of the runs.
        sites: Profiles and where they are.
        processes: As for a simulation.
    """

    trials: Path
    sites: Sites
    processes: int = 1

    def folder(self, study: Study, number: int) -> Path:
        """Return the folder of a candidate's run."""
        del study
        return self.trials / f"{number:03d}"

    def train(self, study: Study, number: int, heard: Heard) -> Path:
        """Take a run to its end, see :class:`deploy.search.search.Trainer`.

        Whatever else stands in its folder is removed.
        """
        folder = self.folder(study, number)
        if not _is_of(folder, study):
            shutil.rmtree(folder, ignore_errors=True)
            start_run(study, self.sites, folder)
        listener = _Listener(folder, heard)
        try:
            run_simulation(folder, processes=self.processes, handlers=[listener])
        finally:
            forget_workers()  # each trial has its own; their cases would fill the memory
        return folder


def _is_of(folder: Path, study: Study) -> bool:
    try:
        return read_run(folder).hash == study_hash(study)
    except FedsegError:
        return False


@final
class _Listener(logging.Handler):
    """Reads the journal after each closed round, so that a resumed run has all its rounds."""

    def __init__(self, folder: Path, heard: Heard) -> None:
        super().__init__()
        self._folder, self._heard = folder, heard

    def emit(self, record: logging.LogRecord) -> None:
        """Tell of a round; what is raised here ends the simulation."""
        if record.name == HUB.name and record.getMessage() == "round_closed":
            curve = curve_of(Journal(self._folder))
            if curve:
                self._heard(curve)


def curve_of(journal: Journal) -> dict[str, float]:
    """Return Dice by round, as far as the closed rounds tell."""
    history = history_of(journal.closed_rounds(), None, Chosen())
    return {str(number): dice for number, dice in sorted(history.items())}


def outcome_of(folder: Path, study: Study, parameters: int) -> Outcome:
    """Read from a run's journal what came of it so far.

    Raises:
        RunError: If no site had a validation case.
    """
    journal = Journal(folder)
    rounds = journal.closed_rounds()
    last: dict[str, Evaluation] = journal.read("last", dict[str, Evaluation]) or {}
    history = history_of(rounds, last, Chosen())
    best = best_in(history)
    if best is None:
        raise RunError("no validation Dice: no site scored a validation case")
    scores = scores_of(best.round, rounds, last)
    return Outcome(
        dice=best.value,
        by_modality=_by_modality(scores, study.modalities),
        best_round=best.round,
        parameters=parameters,
        round_bytes=sum(a.sent + a.received for a in rounds[-1].accepted),
        seconds=sum(closed.seconds for closed in rounds),
        curve={str(number): dice for number, dice in sorted(history.items())},
    )


def scores_of(
    number: int, rounds: Sequence[ClosedRound], last: Mapping[str, Evaluation]
) -> list[tuple[Score, ...]]:
    """Return each site's scores of the weights of a round: they came in the round after."""
    if number == len(rounds):
        return [tuple(evaluation.federated) for evaluation in last.values()]
    return [accepted.report.scores for accepted in rounds[number].accepted]


def _by_modality(
    scores: Sequence[tuple[Score, ...]], modalities: Iterable[str]
) -> dict[str, float]:
    found = {
        m: mean_metric([s for s in at if s.modality == m] for at in scores) for m in modalities
    }
    return {m: dice for m, dice in found.items() if dice is not None}
