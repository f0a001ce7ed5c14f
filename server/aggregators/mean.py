"""The mean weighted by cases.

Source: McMahan et al. Communication-Efficient Learning of Deep Networks from Decentralized
Data. AISTATS 2017. arXiv:1602.05629, algorithm 1, line 8.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UpdateRefusedError


def weighted_mean(arrays: Iterable[NDArray[Any]], weights: Sequence[float]) -> NDArray[Any]:
    r"""Average one array over sites.

    .. math:: w = \sum_s \frac{n_s}{\sum_j n_j} w_s

    Sums in float64, one site at a time, and returns the type that came.

    Args:
        arrays: One a site, all of one floating type and shape. Not modified.
        weights: One a site, each above 0.

    Returns:
        The mean; for one site, exactly its array.

    Raises:
        UpdateRefusedError: If there is none, counts differ, a weight is not above 0, or types
            or shapes differ.
    """
    _check_weights(weights)
    total = float(sum(weights))
    mean: NDArray[np.float64] | None = None
    first: NDArray[Any] | None = None
    seen = 0
    for array in arrays:
        if seen == len(weights):
            raise UpdateRefusedError("more arrays than weights")
        if first is None:
            _check_floating(array)
            first, mean = array, np.zeros(array.shape, np.float64)
        elif array.shape != first.shape or array.dtype != first.dtype:
            raise UpdateRefusedError(
                f"shape {array.shape} of {array.dtype}, expected {first.shape} of {first.dtype}"
            )
        if mean is not None:
            mean += np.multiply(array, weights[seen] / total, dtype=np.float64)
        seen += 1
    if first is None or mean is None or seen != len(weights):
        raise UpdateRefusedError(f"{seen} arrays for {len(weights)} weights")
    return first.copy() if seen == 1 else mean.astype(first.dtype)


def _check_weights(weights: Sequence[float]) -> None:
    if not weights:
        raise UpdateRefusedError("there is no update to average")
    if any(not np.isfinite(weight) or weight <= 0 for weight in weights):
        raise UpdateRefusedError(f"weights {list(weights)}, expected each above 0")


def _check_floating(array: NDArray[Any]) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        raise UpdateRefusedError(f"an array of {array.dtype}; only floating ones are averaged")


def site_weights(
    cases: Mapping[str, Mapping[str, float]], kind: str, *, balance_modalities: bool
) -> dict[str, float]:
    """Return how much each site counts in the average of one kind of parameter.

    Within a modality a site weighs its share of the modality's cases. Balanced, every modality
    then weighs the same, else its share of all cases (FedNorm's rule for modality parameters
    follows from either).

    Args:
        cases: Training cases of each accepted site that trained this kind, by modality; parts
            of a case where an update counts less.
        kind: Of the parameter.
        balance_modalities: See above.

    Returns:
        Weights that sum to 1, sites in sorted order; sites with none are absent.
    """
    group, _, modality = kind.partition(":")
    counted = {
        site: {
            m: n for m, n in sorted(by.items()) if n and (group != "modality" or m == modality)
        }
        for site, by in sorted(cases.items())
    }
    totals: dict[str, float] = {}
    for by in counted.values():
        for m, n in by.items():
            totals[m] = totals.get(m, 0) + n
    everything = sum(totals.values())
    share = {
        m: 1 / len(totals) if balance_modalities else n / everything for m, n in totals.items()
    }
    weights = {
        site: sum(share[m] * n / totals[m] for m, n in by.items())
        for site, by in counted.items()
    }
    return {site: weight for site, weight in weights.items() if weight > 0}
