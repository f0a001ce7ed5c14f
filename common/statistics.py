"""Statistics of a list of scores, in NumPy alone so that code without torch may use them.

Source: Efron and Tibshirani. An Introduction to the Bootstrap. 1993, section 13.3 (the
percentile interval).
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError


def bootstrap_mean_interval(
    values: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    samples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Estimate an interval for the mean over cases with the percentile bootstrap.

    Cases are the unit that is resampled: pass one value per case, not one per label of a case.

    Args:
        values: One finite value per case, shape (N,), N >= 1. Leave out what was not scored
            (an absent structure is nan) before. Not changed.
        rng: Source of randomness; advanced.
        samples: Number of resampled means.
        level: Share of the resampled means inside the interval, between 0 and 1.

    Returns:
        Lower and upper end, in the unit of the values; both equal the value if N is 1.

    Raises:
        InputError: If there is no value, one is not finite, or ``level`` is out of range.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise InputError(
            f"interval: {scores.size} values of shape {scores.shape}; expected a list of at "
            "least one finite value; leave absent structures out"
        )
    if not 0.0 < level < 1.0 or samples < 1:
        raise InputError(
            f"interval: level {level} and {samples} samples; expected a level between 0 and 1 "
            "and at least one sample"
        )
    chosen = rng.integers(0, scores.size, size=(samples, scores.size))
    means = scores[chosen].mean(axis=1)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, (tail, 1.0 - tail))
    return float(low), float(high)
