"""Updates that go against the others: a sign that was flipped, by a defect or on purpose.

The change of a site's weights is compared with the mean change of the others by its cosine.
Sites of one modality that train the same network from the same weights agree more or less; one
that goes plainly the other way is marked. It counts all the same: what a cosine means is for
people to judge. Sites of different modalities are not compared: of three CT sites and one MR
site, all honest, the MR site's cosine fell to -0.19 within ten rounds.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.parameters import SHARED, Table
from common.tensors import TensorFile
from server.folding import PIECE

AGAINST = -0.3  # cosine; honest sites of a modality were seen between 0.8 and -0.13
FEWEST_PEERS = 2  # of two sites nobody can tell which one goes the wrong way


def against_the_others(
    files: Mapping[str, Path],
    modalities: Mapping[str, tuple[str, ...]],
    table: Table,
    before: Path,
) -> dict[str, float]:
    """Return the cosine of each site whose change goes against the mean of its peers'.

    Only parameters that all sites train are compared, a piece of one tensor at a time.

    Args:
        files: Weights of each site's update.
        modalities: That each site trains; the peers of a site are those that share one with it.
        table: All parameters of the network.
        before: Weights that were sent.
    """
    sites = sorted(files)
    peers = {
        i: [
            j
            for j, other in enumerate(sites)
            if j != i and set(modalities[other]) & set(modalities[site])
        ]
        for i, site in enumerate(sites)
    }
    if max(map(len, peers.values()), default=0) < FEWEST_PEERS:
        return {}
    gram = products(files, table, before)
    found = {}
    for i, site in enumerate(sites):
        cosine = cosine_with(gram, i, peers[i])
        if len(peers[i]) >= FEWEST_PEERS and cosine < AGAINST:
            found[site] = cosine
    return found


def products(files: Mapping[str, Path], table: Table, before: Path) -> NDArray[np.float64]:
    """Return the inner products of all sites' changes, in the order of their names."""
    sites = sorted(files)
    total = np.zeros((len(sites), len(sites)))
    with ExitStack() as stack:
        old = stack.enter_context(TensorFile(before))
        opened = [stack.enter_context(TensorFile(files[site])) for site in sites]
        for name, parameter in table.items():
            size = prod(parameter.shape)
            if parameter.kind != SHARED:
                continue
            for first in range(0, size, PIECE):
                last = min(first + PIECE, size)
                sent = old.read_rows(name, first, last)
                rows = [f.read_rows(name, first, last) for f in opened]
                change = np.stack([np.subtract(row, sent, dtype=np.float64) for row in rows])
                total += change @ change.T
    return total


def cosine_with(gram: NDArray[np.float64], one: int, others: Sequence[int]) -> float:
    """Return the cosine of a vector with the mean of others; 0 where either has no length.

    Args:
        gram: Inner products of all vectors.
        one: Row of the vector.
        others: Rows of the others.
    """
    along = float(gram[one, others].sum())
    length = sqrt(max(float(gram[np.ix_(others, others)].sum()) * float(gram[one, one]), 0.0))
    return along / length if length else 0.0
