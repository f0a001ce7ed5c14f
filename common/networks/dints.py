"""DiNTS: a grid of levels and blocks in which paths and operations are learnt, then kept.

MONAI has the space, the decoding and the network; here they become a study's networks, and the
parts that no path of a found network reaches are left out.

Source: He et al. DiNTS. CVPR 2021. arXiv:2103.15954; MONAI DiNTS.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.networks.nets.dints import DiNTS, TopologyInstance, TopologySearch
from torch import Tensor, nn

from common.networks.blocks.parts import AFFINE_INSTANCE
from common.study.dints import Dints, DintsSearch, DintsSpace, sources

MONAI_WIDTH = 32  # feature channels of MONAI's finest level at a factor of 1
RELU = ("relu", {"inplace": False})


class Absent(nn.Module):
    """In the place of a stem that no path begins at: zeros, where its map would be."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self._channels, self._factor = channels, factor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *space) to (B, channels, *space / factor) of zeros."""
        return x.new_zeros(
            x.shape[0], self._channels, *(side // self._factor for side in x.shape[2:])
        )


class SearchedNetwork(DiNTS):
    """MONAI's DiNTS over the whole space, with what a search asks of it.

    Attributes:
        entropy_weight: See :class:`common.study.dints.DintsSearch`.
        memory_weight: The same.
    """

    entropy_weight: float
    memory_weight: float

    @property
    def architecture(self) -> list[nn.Parameter]:
        """The weights of paths and of operations."""
        return [self.dints_space.log_alpha_a, self.dints_space.log_alpha_c]

    def penalty(self, shape: Sequence[int], progress: float) -> Tensor:
        """Return the paper's topology (entropy) and memory losses, weighted.

        Args:
            shape: Of a batch, (B, C, *space).
            progress: Share of the training that is done; both grow with it.
        """
        space = self.dints_space
        space.device = space.log_alpha_a.device  # MONAI keeps the one it was built on
        chances, _ = space.get_prob_a(child=True)
        entropy = space.get_topology_entropy(chances) / (space.num_blocks - 1)
        used = space.get_ram_cost_usage(shape) / space.get_ram_cost_usage(shape, full=True)
        total: Tensor = progress * (self.entropy_weight * entropy + self.memory_weight * used)
        return total

    def decoded(self) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Return the paths and operations of the likeliest network, as a study names them.

        Paths are those of the shortest way through the space, on which each block begins at the
        levels where the one before it ends.
        """
        with torch.no_grad():
            _, paths, operations, _ = self.dints_space.decode()
        as_ints = [[int(p) for p in row] for row in paths]
        return (
            tuple(map(tuple, as_ints)),
            tuple(tuple(int(o) for o in row) for row in operations),
        )


def architecture_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of paths and operations of a network that is searched; else none."""
    return network.architecture if isinstance(network, SearchedNetwork) else []


def build_dints_search(
    config: DintsSearch, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the whole space of a configuration."""
    with contextlib.redirect_stdout(io.StringIO()):  # MONAI prints a recommendation
        space = TopologySearch(**_space(config, dimensions))
    network = SearchedNetwork(space, channels, classes, **_common(dimensions))
    network.entropy_weight = config.entropy_weight
    network.memory_weight = config.memory_weight
    return network


def build_dints(config: Dints, *, dimensions: int, channels: int, classes: int) -> nn.Module:
    """Build the network of the paths that a configuration names, and nothing beside them."""
    ends = sources(config.depths)
    paths = config.paths or ((1,) * len(ends),) * config.blocks
    operations = config.operations or ((1,) * len(ends),) * config.blocks
    nodes = np.zeros((config.blocks + 1, config.depths), dtype=int)
    for number, row in enumerate(paths):
        for (start, end), is_there in zip(ends, row, strict=True):
            nodes[number, start] |= is_there
            nodes[number + 1, end] |= is_there
    code = [np.array(paths), np.array(operations)]
    with contextlib.redirect_stdout(io.StringIO()):
        space = TopologyInstance(code, **_space(config, dimensions))
    # as a tensor it would be read at each step, and the network could not be exported
    space.arch_code_a = code[0]  # type: ignore[assignment]
    network = DiNTS(space, channels, classes, node_a=nodes, **_common(dimensions))
    coarsest = max(level for level in range(config.depths) if nodes[-1, level])
    for level in range(config.depths):
        if not nodes[0, level]:
            network.stem_down[str(level)] = Absent(
                space.filter_nums[level + 1], 2 ** (level + 1)
            )
        if level > coarsest:
            network.stem_up[str(level)] = nn.Identity()
    return network


def _space(config: DintsSpace, dimensions: int) -> dict[str, Any]:
    return {
        "channel_mul": config.width / MONAI_WIDTH / 2,  # its finest level is the stem's second
        "num_blocks": config.blocks,
        "num_depths": config.depths,
        "use_downsample": True,
        **_common(dimensions),
    }


def _common(dimensions: int) -> dict[str, Any]:
    return {"spatial_dims": dimensions, "act_name": RELU, "norm_name": AFFINE_INSTANCE}
