"""Which round's weights are the best, by the study's metric.

The metric is the mean over sites of their validation Dice, each the mean over the labels and
modalities that the site has. A round's weights are scored by the sites when they receive them,
so the score of round r comes with the answers of round r + 1.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from common.messages import Evaluation, Score
from common.tensors import digest_of
from server.journal import Best, Chosen, ClosedRound, Journal


def site_metric(scores: Iterable[Score]) -> float:
    """Return one site's mean Dice over its labels and modalities; NaN without any."""
    values = [s.value for s in scores if s.metric == "dice" and s.cases]
    return sum(values) / len(values) if values else math.nan


def metric_of(closed: ClosedRound) -> float | None:
    """Return the metric of the weights that came into a round, or None if not scored."""
    return mean_metric([a.report.scores for a in closed.accepted])


def mean_metric(scores: Iterable[Iterable[Score]]) -> float | None:
    """Return the mean over the sites that have a validation Dice, or None."""
    values = [value for value in map(site_metric, scores) if not math.isnan(value)]
    return sum(values) / len(values) if values else None


def choose(
    journal: Journal, rounds: Sequence[ClosedRound], last: Mapping[str, Evaluation] | None
) -> Best:
    """Keep the best weights so far beside the last, and say which they are.

    A pure function of what the journal holds, so that a run killed between closing a round and
    copying its weights chooses the same when it goes on.

    Args:
        journal: The run's.
        rounds: All closed rounds.
        last: Validation of the last round's weights, once all rounds are closed.

    Returns:
        The best round of those whose weights are there, which are all that could be the best
        unless files were lost; of equals the earliest; without any validation the last.
    """
    kept = journal.read("best", Chosen) or Chosen()
    history = history_of(rounds, last, kept)
    held = {r for r in history if journal.model(r).exists()}
    held |= {kept.best.round} if kept.best else set()
    best = best_in({r: m for r, m in history.items() if r in held})
    if best is None:
        if last is not None:
            journal.keep_best(len(rounds))
        return Best(round=len(rounds), value=0.0)
    digest = kept.digest
    if kept.best != best:
        journal.keep_best(best.round)
        digest = digest_of(journal.best_model)
    plain = {str(r): m for r, m in history.items()}
    journal.write("best", Chosen(best=best, history=plain, digest=digest))
    return best


def history_of(
    rounds: Sequence[ClosedRound], last: Mapping[str, Evaluation] | None, kept: Chosen
) -> dict[int, float]:
    """Return the metric of each round's weights.

    Args:
        rounds: All closed rounds.
        last: Validation of the last round's weights, once all rounds are closed.
        kept: What was chosen before; it alone still knows what a lost record said.
    """
    lost = {str(c.number - 1) for c in rounds if c.lost}
    history = {int(r): m for r, m in kept.history.items() if r in lost}
    history |= {c.number - 1: m for c in rounds if (m := metric_of(c)) is not None}
    metric = mean_metric([e.federated for e in (last or {}).values()])
    return history if metric is None else {**history, len(rounds): metric}


def best_in(history: Mapping[int, float]) -> Best | None:
    """Return the round with the highest metric, of equals the earliest; None of none."""
    if not history:
        return None
    number = min(history, key=lambda r: (-history[r], r))
    return Best(round=number, value=history[number])
