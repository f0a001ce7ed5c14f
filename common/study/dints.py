"""What a study may say of DiNTS, the network whose shape is searched; torch-free."""

from dataclasses import dataclass
from typing import Literal

from common.study.backbones import Problems, range_problems
from common.study.composable import Network, Norm

MOST_BLOCKS, FEWEST_DEPTHS, MOST_DEPTHS, LARGEST_WIDTH = 12, 2, 4, 256
OPERATIONS = {2: 2, 3: 5}  # of a path, by dimensions; 0 hands the map on, 1 is a convolution
MOVES = 3  # of a level: from the finer, the same and the coarser one


def sources(depths: int) -> list[tuple[int, int]]:
    """Return the level where each path of a block begins and ends, in the order of a code."""
    return [
        (level + move, level)
        for level in range(depths)
        for move in (-1, 0, 1)
        if 0 <= level + move < depths
    ]


@dataclass(frozen=True, kw_only=True)
class DintsSpace(Network):
    """The grid that both networks of DiNTS are built on; not a network by itself."""

    width: int = 8
    blocks: int = 4
    depths: int = 3
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return int(2**self.depths)

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = range_problems("width", self.width, 2, LARGEST_WIDTH)
        found += range_problems("blocks", self.blocks, 2, MOST_BLOCKS)
        return [*found, *range_problems("depths", self.depths, FEWEST_DEPTHS, MOST_DEPTHS)]


@dataclass(frozen=True, kw_only=True)
class Dints(DintsSpace):
    """DiNTS with the paths that a search found, or all of them.

    Levels stand beside each other; from block to block a path leads from a level to the same
    one, the finer or the coarser. ``fedseg search --strategy dints`` writes the codes.

    Attributes:
        width: Feature channels of the finest level, 2 to 256; doubled from level to level.
        blocks: Blocks one after another, 2 to 12.
        depths: Levels, 2 to 4.
        paths: For each block, which of its paths are there, 1 or 0, in the order: into the
            finest level from the same and the coarser one, into the next from the finer, the
            same and the coarser one, and so on. Empty for all.
        operations: For each path what it does: 0 hands the map on, 1 is a convolution; in 3-D
            2, 3 and 4 are convolutions in two passes, of 3x3x1, 3x1x3 and 1x3x3 first. Empty
            for 1 everywhere.
        norm: Normalisation layer.
    """

    name: Literal["dints"] = "dints"
    paths: tuple[tuple[int, ...], ...] = ()
    operations: tuple[tuple[int, ...], ...] = ()

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Dimensions in which the network exists: an operation of 2 or more is of volumes."""
        return (
            (3,) if any(o >= OPERATIONS[2] for row in self.operations for o in row) else (2, 3)
        )

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = super().problems()
        for field, largest in (("paths", 1), ("operations", OPERATIONS[3] - 1)):
            rows = getattr(self, field)
            if rows and not found:
                found += _code_problems(field, rows, self.blocks, self.depths, largest)
        if self.paths and not found:
            found += _broken_paths(self.paths, self.depths)
        return found


@dataclass(frozen=True, kw_only=True)
class DintsSearch(DintsSpace):
    """The whole space of DiNTS: every path with every operation, and how much of each.

    The weights of paths and operations are trained with the rest, in turn: a step on training
    cases moves the network's weights, a step on the site's validation cases (its training cases
    where it has none) moves those of paths and operations. The hub averages both. What is kept
    of it is a :class:`Dints`; the space itself cannot be exported.

    Attributes:
        width: Feature channels of the finest level, 2 to 256; doubled from level to level.
        blocks: Blocks one after another, 2 to 12.
        depths: Levels, 2 to 4.
        path_rate: Learning rate of the weights of paths and operations, as a factor of the
            network's own, 0 to 1000.
        warmup_rounds: Rounds, from the first, in which only the network's weights move.
        entropy_weight: Factor of the loss that asks for blocks which fit each other, reached
            at the end of the training; per pair of neighbouring blocks.
        memory_weight: Factor of the share of the space's memory that is expected to be used,
            reached at the end of the training.
        norm: Normalisation layer.
    """

    name: Literal["dints_search"] = "dints_search"
    path_rate: float = 3.0
    warmup_rounds: int = 1
    entropy_weight: float = 0.001
    memory_weight: float = 0.1

    def path_factor(self, number: int) -> float:
        """Return the factor of the learning rate of paths and operations, in a round from 1."""
        return self.path_rate if number > self.warmup_rounds else 0.0

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = super().problems()
        found += range_problems("path_rate", self.path_rate, 0.0, 1000.0)
        found += range_problems("warmup_rounds", self.warmup_rounds, 0, 100_000)
        for field in ("entropy_weight", "memory_weight"):
            found += range_problems(field, getattr(self, field), 0.0, 1000.0)
        return found


def _code_problems(
    field: str, rows: tuple[tuple[int, ...], ...], blocks: int, depths: int, largest: int
) -> Problems:
    expected = MOVES * depths - 2
    if len(rows) != blocks or any(len(row) != expected for row in rows):
        return [(field, f"expected {blocks} lists of {expected}, one for each block")]
    if any(not 0 <= value <= largest for row in rows for value in row):
        return [(field, f"expected each from 0 to {largest}")]
    return []


def _broken_paths(paths: tuple[tuple[int, ...], ...], depths: int) -> Problems:
    """Tell of a path that begins where none ends, or ends where none goes on."""
    ends = sources(depths)
    reached: set[int] | None = None
    for number, row in enumerate(paths):
        there = [ends[i] for i, is_there in enumerate(row) if is_there]
        begun = {start for start, _ in there}
        if not there:
            return [("paths", f"block {number} has none")]
        if reached is not None and begun != reached:
            return [
                (
                    "paths",
                    f"block {number} begins at levels {sorted(begun)}, expected those where "
                    f"the one before ends: {sorted(reached)}",
                )
            ]
        reached = {end for _, end in there}
    return []
