"""After the last round: which weights are the best, and what they are worth at each site."""

from collections.abc import Sequence
from typing import Any

from flwr.serverapp import Grid

from common import protocol
from common.events import HUB, emit
from common.messages import AloneJob, AloneReport, EvaluateJob, Evaluation, Pooled
from server.journal import ClosedRound, Journal
from server.selection import choose
from server.sites import Sites, arrays_of


def finish(
    grid: Grid, sites: Sites, journal: Journal, rounds: Sequence[ClosedRound], pooled: Pooled
) -> None:
    """Score the last weights, choose the best, let sites train alone, score the best.

    Each of the steps is written down when it is done, and not done again after a restart.
    """
    if journal.read("last", dict[str, Any]) is None:
        _write(journal, "last", _evaluate(grid, sites, journal, pooled, len(rounds)))
    best = choose(journal, rounds, journal.read("last", dict[str, Evaluation]))
    emit(HUB, "best_chosen", round=best.round, value=best.value)
    if sites.study.evaluation.local and journal.read("alone", dict[str, Any]) is None:
        _write(journal, "alone", _train_alone(grid, sites, journal, pooled))
    if journal.read("final", dict[str, Any]) is None:
        _write(journal, "final", _evaluate(grid, sites, journal, pooled, best.round, test=True))


def _write(journal: Journal, name: str, answers: dict[str, Any]) -> None:
    journal.write(name, {site: protocol.plain(answer) for site, answer in answers.items()})


def _evaluate(
    grid: Grid,
    sites: Sites,
    journal: Journal,
    pooled: Pooled,
    number: int,
    *,
    test: bool = False,
) -> dict[str, Evaluation]:
    arrays = arrays_of(journal.whole_best_model() if test else journal.model(number))
    messages = {}
    for site in sites.present(grid):
        own, kinds = sites.own(site, arrays)
        job = EvaluateJob(
            context=sites.context(number), pooled=pooled, kinds=kinds, weights={},
            part="test" if test else "validation")  # fmt: skip
        messages[site] = sites.message(site, job, own, protocol.EVALUATE)
    return dict(sites.values(grid, messages, Evaluation))


def _train_alone(
    grid: Grid, sites: Sites, journal: Journal, pooled: Pooled
) -> dict[str, AloneReport]:
    arrays = arrays_of(journal.model(0))
    messages = {}
    for site in sites.present(grid):
        own, kinds = sites.own(site, arrays)
        job = AloneJob(context=sites.context(0), pooled=pooled, kinds=kinds, weights={})
        messages[site] = sites.message(site, job, own, protocol.ALONE)
    return dict(sites.values(grid, messages, AloneReport))
