"""Which trials no other beats, and which of those is the one to take."""

import math
from collections.abc import Sequence
from typing import Literal

from deploy.search.trial import Outcome, Trial

Pick = Literal["dice", "knee"]


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials that no other beats in Dice and parameters, best Dice first.

    One beats another if it is as good in both and better in one. With one network for all (a
    search for a loss) what is left is the best Dice.
    """
    found: list[Trial] = []
    for trial in sorted(completed(trials), key=_order):
        if all(_parameters(trial) < _parameters(better) for better in found) or any(
            _same(trial, better) for better in found
        ):
            found.append(trial)
    return found


def completed(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that were trained to the end."""
    return [t for t in trials if t.state == "complete" and t.outcome is not None]


def picked(trials: Sequence[Trial], pick: Pick) -> Trial | None:
    """Return the trial to take, or None where none is complete.

    ``dice``: the highest Dice, of equals the smallest. ``knee``: the point of the front that
    stands highest above the line between its ends, parameters on a logarithmic scale.
    """
    best = front(trials)
    if not best:
        return None
    if pick == "dice":
        return best[0]
    dice = [_outcome(t).dice for t in best]
    sizes = [math.log(_parameters(t)) for t in best]

    def above(place: int) -> float:
        return _share(dice[place], dice) - _share(sizes[place], sizes)

    return best[max(range(len(best)), key=above)]


def _share(value: float, of: Sequence[float]) -> float:
    span = max(of) - min(of)
    return (value - min(of)) / span if span else 0.0


def _order(trial: Trial) -> tuple[float, int, int]:
    return (-_outcome(trial).dice, _parameters(trial), trial.number)


def _same(one: Trial, two: Trial) -> bool:
    return _order(one)[:2] == _order(two)[:2]


def _parameters(trial: Trial) -> int:
    return _outcome(trial).parameters


def _outcome(trial: Trial) -> Outcome:
    if trial.outcome is None:
        raise ValueError(trial.state)
    return trial.outcome
