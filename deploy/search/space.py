"""What can be chosen, and the study that a choice makes.

A point is a flat mapping from the name of an axis to a value. The choices of the composable
U-Net are read from its own types, so a block that is added there is searched here.

Loss: a sum of terms, the weights a softmax of free numbers, so that every point is a loss and
the scale of the gradient stays the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from common.study.composable import ComposableUNet
from common.study.dints import Dints, DintsSearch
from common.study.load import study_problems
from common.study.losses import (
    Boundary,
    CrossEntropy,
    Dice,
    ExponentialLogarithmic,
    GeneralizedDice,
    Sum,
    Term,
    TermLoss,
    Tversky,
)
from common.study.networks import NetworkConfig
from common.study.study import Over, Study

Value = str | int | float
Point = Mapping[str, Value]

LEVELS = (2, 3, 4, 5)
WIDTHS = (4, 8, 16, 32)  # channels of the finest level; doubled from level to level
WIDEST = 512
PARTS = ("block", "attention", "bottom")
FREE = (-3.0, 3.0)  # a weight's number before the softmax: a factor of 400 between two terms
LEAST_WEIGHT = 0.01  # below it a term is left out: it would cost its time for nothing
DIGITS = 4


@dataclass(frozen=True)
class OneOf:
    """An axis of named or counted choices."""

    options: tuple[str | int, ...]


@dataclass(frozen=True)
class Between:
    """An axis of real numbers, ends included."""

    low: float
    high: float


Axis = OneOf | Between
Code = tuple[tuple[int, ...], ...]
SHAPE = ("width", "blocks", "depths")  # of a space and of what is found in it
Build = Callable[[Point], TermLoss]
TERMS: dict[str, Build] = {
    "cross_entropy": lambda _: CrossEntropy(),
    "dice": lambda _: Dice(),
    "generalized_dice": lambda _: GeneralizedDice(),
    "boundary": lambda _: Boundary(),
    "exponential_logarithmic": lambda point: ExponentialLogarithmic(
        dice_exponent=_number(point, "dice_exponent"),
        cross_entropy_exponent=_number(point, "cross_entropy_exponent"),
    ),
    "tversky": lambda point: Tversky(
        false_positives=_number(point, "alpha"),
        false_negatives=round(1 - _number(point, "alpha"), DIGITS),
    ),
}
EXPONENT = Between(0.1, 3.0)


def axes(over: Over) -> dict[str, Axis]:
    """Return the axes of a search, in a fixed order."""
    found: dict[str, Axis] = {}
    if over != "loss":
        hints = get_type_hints(ComposableUNet)
        found |= {part: OneOf(get_args(hints[part])) for part in PARTS}
        found |= {"levels": OneOf(LEVELS), "width": OneOf(WIDTHS)}
    if over != "network":
        found |= {f"weight_{name}": Between(*FREE) for name in TERMS}
        found |= {"dice_exponent": EXPONENT, "cross_entropy_exponent": EXPONENT}
        found |= {"alpha": Between(0.1, 0.9)}
    return found


def study_at(study: Study, point: Point) -> Study:
    """Return the study with the network and the loss of a point; the rest is kept."""
    if "block" in point:
        study = replace(study, network=network_at(study.network, point))
    if "paths" in point:
        study = replace(study, network=dints_at(study.network, point))
    if "alpha" in point:
        study = replace(study, loss=loss_at(point))
    return study


def network_at(base: NetworkConfig, point: Point) -> ComposableUNet:
    """Return a composable U-Net of a point's parts.

    What is not searched comes from the study's network where that is a composable U-Net; of
    any other, norm and dropout.
    """
    names = [f.name for f in fields(ComposableUNet) if f.name != "name"]
    kept = names if isinstance(base, ComposableUNet) else ["norm", "dropout"]
    values: dict[str, Any] = {n: getattr(base, n) for n in kept if hasattr(base, n)}
    values |= {part: point[part] for part in PARTS}
    width, levels = int(point["width"]), int(point["levels"])
    values["widths"] = tuple(min(width * 2**i, WIDEST) for i in range(levels))
    return ComposableUNet(**values)


def path_point(space: DintsSearch, paths: Code, operations: Code) -> dict[str, Value]:
    """Return what was found in a space as a point."""
    shape = {name: getattr(space, name) for name in SHAPE}
    return {**shape, "paths": _digits(paths), "operations": _digits(operations)}


def _digits(code: Code) -> str:
    return "-".join("".join(map(str, row)) for row in code)


def dints_at(base: NetworkConfig, point: Point) -> Dints:
    """Return the network of a point that was found in a space."""
    shape: dict[str, Any] = {name: int(point[name]) for name in SHAPE}
    for name in ("paths", "operations"):
        shape[name] = tuple(tuple(map(int, row)) for row in str(point[name]).split("-"))
    return Dints(norm=base.norm, **shape)


def loss_at(point: Point) -> Sum:
    """Return the sum of losses of a point, its weights adding to about 1."""
    powers = {name: math.exp(float(point[f"weight_{name}"])) for name in TERMS}
    shares = {name: power / sum(powers.values()) for name, power in powers.items()}
    return Sum(
        terms=tuple(
            Term(loss=build(point), weight=round(shares[name], DIGITS))
            for name, build in TERMS.items()
            if shares[name] >= LEAST_WEIGHT
        )
    )


def refusal(study: Study) -> str:
    """Say why a study cannot be trained; nothing if it can."""
    return "; ".join(f"{'.'.join(map(str, at))}: {what}" for at, what in study_problems(study))


def in_words(study: Study, over: Over) -> str:
    """Return what was chosen, in one line."""
    parts = []
    network, loss = study.network, study.loss
    if over != "loss" and isinstance(network, ComposableUNet):
        found = [f"{network.block} blocks"]
        found += [f"{network.attention} attention"] if network.attention != "none" else []
        found += [f"{network.bottom} bottom"] if network.bottom != "block" else []
        found += [f"{len(network.widths)} levels from {network.widths[0]}"]
        parts.append(", ".join(found))
    if over != "loss" and isinstance(network, Dints | DintsSearch):
        parts.append(_paths_in_words(network))
    if over != "network" and isinstance(loss, Sum):
        parts.append(" + ".join(f"{term.weight:.2f} {_term(term.loss)}" for term in loss.terms))
    return "; ".join(parts)


def _paths_in_words(network: Dints | DintsSearch) -> str:
    grid = f"{network.blocks} blocks of {network.depths} levels from {network.width}"
    if isinstance(network, DintsSearch):
        return f"space of {grid}, memory weight {network.memory_weight:g}"
    paths = sum(map(sum, network.paths))
    idle = sum(
        is_there and not operation
        for rows in zip(network.paths, network.operations, strict=True)
        for is_there, operation in zip(*rows, strict=True)
    )
    return f"DiNTS, {grid}, {paths} paths, {idle} of them without a convolution"


def _term(loss: TermLoss) -> str:
    if isinstance(loss, Tversky):
        return f"{loss.name}({loss.false_positives:.2f})"
    if isinstance(loss, ExponentialLogarithmic):
        return f"{loss.name}({loss.dice_exponent:.2f}, {loss.cross_entropy_exponent:.2f})"
    return loss.name


def _number(point: Point, name: str) -> float:
    return round(float(point[name]), DIGITS)
