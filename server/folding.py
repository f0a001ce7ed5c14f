"""Closing a round: accepted updates into new weights, a piece of one tensor at a time."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import writing
from common.parameters import Table, is_trained_by
from common.tensors import TensorFile, TensorWriter
from server.aggregators.mean import site_weights, weighted_mean

PIECE = 1 << 18  # elements; small enough that the sum in float64 stays in a core's cache


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """One accepted update, as the fold sees it.

    Attributes:
        file: Its weights.
        cases: Training cases by modality.
        annotated: Labels that the site annotates.
        discount: Factor of the cases; below 1 for an update that was late.
    """

    file: Path
    cases: dict[str, int]
    annotated: tuple[str, ...]
    discount: float = 1.0


def fold(
    contributions: Mapping[str, Contribution],
    table: Table,
    before: Path,
    after: Path,
    *,
    balance_modalities: bool,
    metadata: Mapping[str, str],
) -> None:
    """Write the weights that a round closes with.

    Each parameter is averaged over the sites that trained it, in site order; one that nobody
    trained keeps its value.

    Args:
        contributions: Accepted updates by site.
        table: All parameters of the network.
        before: Weights file of the round before.
        after: Where the new weights appear, whole or not at all.
        balance_modalities: See :func:`server.aggregators.mean.site_weights`.
        metadata: Texts for the header of the new file.
    """
    sites = sorted(contributions)
    with ExitStack() as stack:
        old = stack.enter_context(TensorFile(before))
        files = {s: stack.enter_context(TensorFile(contributions[s].file)) for s in sites}
        target = stack.enter_context(writing(after))
        slots = {n: (np.dtype(p.dtype), p.shape) for n, p in table.items()}
        writer = TensorWriter(target, slots, metadata)
        for name, parameter in table.items():
            cases = {
                s: {m: n * contributions[s].discount for m, n in contributions[s].cases.items()}
                for s in sites
                if is_trained_by(
                    parameter.kind, contributions[s].cases, contributions[s].annotated
                )
            }
            weights = site_weights(cases, parameter.kind, balance_modalities=balance_modalities)
            for piece in _pieces(name, prod(parameter.shape), old, files, weights):
                writer.write(piece)


def _pieces(
    name: str,
    size: int,
    old: TensorFile,
    files: Mapping[str, TensorFile],
    weights: Mapping[str, float],
) -> Iterator[NDArray[Any]]:
    for first in range(0, size, PIECE):
        last = min(first + PIECE, size)
        if weights:
            rows = (files[site].read_rows(name, first, last) for site in weights)
            yield weighted_mean(rows, list(weights.values()))
        else:
            yield old.read_rows(name, first, last)
