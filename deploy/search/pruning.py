"""When a federation is stopped before its last round.

Both rules compare a trial with the earlier ones of **no more parameters** that got as far. With
two objectives a small network must not be stopped because larger ones are better: it may stand
on the front. One that is worse than smaller ones that were trained as long, will not. Where all
trials have the same network (a search for a loss) that is every earlier trial.

Median: Golovin et al. Google Vizier. KDD 2017, section 3.2.2; of each trial its best so far.
Halving: Li et al. A System for Massively Parallel Hyperparameter Tuning. arXiv:1810.05934,
algorithm 2, the inner loop of Hyperband without its brackets, one trial at a time.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from deploy.search.trial import Trial

Curve = Mapping[str, float]
Rule = Callable[[Curve, Sequence[Curve]], str]
ENOUGH = 4  # trials to compare with before the median says anything
KEPT = 3  # one in so many goes on at each rung of the halving, which are its powers


def by_median(curve: Curve, others: Sequence[Curve]) -> str:
    """Say why a trial is hopeless: below the median of the others at the same round."""
    number, best = _last(curve)
    there = [_best(other, number) for other in others if _reached(other, number)]
    if len(there) < ENOUGH or best >= median(there):
        return ""
    return (
        f"round {number}: Dice {best:.3f}, below {median(there):.3f}, the median of "
        f"{len(there)} earlier trials of no more parameters"
    )


def by_halving(curve: Curve, others: Sequence[Curve]) -> str:
    """Say why a trial is hopeless: not in the best third at a rung, rounds 1, 3, 9, ..."""
    number, best = _last(curve)
    if number not in {KEPT**power for power in range(10)}:
        return ""
    there = [_best(other, number) for other in others if _reached(other, number)]
    better, kept = sum(value > best for value in there), math.ceil((len(there) + 1) / KEPT)
    if better < kept:
        return ""
    return (
        f"round {number}: Dice {best:.3f}, place {better + 1} of {len(there) + 1} trials of no "
        f"more parameters; the best {kept} go on"
    )


def never(curve: Curve, others: Sequence[Curve]) -> str:
    """Stop nothing."""
    del curve, others
    return ""


RULES: dict[str, Rule] = {"median": by_median, "halving": by_halving, "none": never}


def comparable(trials: Sequence[Trial], parameters: int) -> list[Curve]:
    """Return the curves of the trials whose networks are not larger."""
    return [
        trial.outcome.curve
        for trial in trials
        if trial.state in ("complete", "pruned")
        and trial.outcome
        and trial.outcome.parameters <= parameters
    ]


def _last(curve: Curve) -> tuple[int, float]:
    return max(map(int, curve)), max(curve.values())


def _reached(curve: Curve, number: int) -> bool:
    return max(map(int, curve), default=0) >= number


def _best(curve: Curve, number: int) -> float:
    return max(value for r, value in curve.items() if int(r) <= number)
