"""Randomness that is a function of its place in a run, and of nothing else.

Nothing carries a random state from round to round: a generator is made from the study's seed
and the names of what it is for. So a resumed run draws what an uninterrupted one draws.
"""

import hashlib

import numpy as np


def seed_of(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose; other purposes give unrelated ones."""
    text = "\x1f".join([str(seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose; see :func:`seed_of`."""
    return np.random.default_rng(seed_of(seed, *purpose))
