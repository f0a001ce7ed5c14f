"""The ranges that a loss's numbers must lie in."""

from collections.abc import Mapping
from typing import Any

Range = tuple[float, float]
Problems = list[tuple[str, str]]
LARGEST_WEIGHT = 1e6
WEIGHT: Range = (0.0, LARGEST_WEIGHT)
SHARE: Range = (0.0, 1.0)


def range_problems(config: Any, ranges: Mapping[str, Range]) -> Problems:
    """Return (field, what is wrong) for each number outside its range, ends included."""
    return [
        (key, f"is {getattr(config, key)}, expected {low:g} to {high:g}")
        for key, (low, high) in ranges.items()
        if not low <= getattr(config, key) <= high
    ]


def none_above_0(config: Any, first: str, second: str) -> Problems:
    """Return a problem where both weights of a sum of two are 0: nothing would be learnt."""
    if getattr(config, first) or getattr(config, second):
        return []
    return [(first, "both weights are 0, expected one above 0")]
