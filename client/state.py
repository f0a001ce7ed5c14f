"""What a site keeps between rounds: optimiser, critic, the parameters that never leave it.

One file a round, written before the answer is sent; the file of the round before stays until
then. A site that is asked for a round again, because its answer was lost, starts from the same
state and gives the same answer. There is no random state to keep: it is a function of the
study's seed, the site and the round.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from common.tensors import TensorFile, Weights, write_tensors

_OPTIMIZER = "optimizer/"
_WEIGHTS = "weights/"
_CRITIC = "critic/"


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """What is kept after a round.

    Attributes:
        optimizer: Arrays of the optimiser, see :func:`optimizer_arrays`.
        weights: Of the network, those that are kept.
        critic: See :class:`client.adversary.Adversary`; empty where the study has none.
        texts: Whatever else.
    """

    optimizer: Weights
    weights: Weights
    critic: Weights = field(default_factory=dict)
    texts: Mapping[str, str]


@final
class StateFolder:
    """The state files of one run at one site, one after each round.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, number: int) -> Path:
        """Return the file of a round."""
        return self.folder / f"state-{number:05d}.safetensors"

    def newest_before(self, number: int) -> int | None:
        """Return the newest round before this one that has a state, or None."""
        found = [
            int(m[1])
            for p in self.folder.glob("state-*.safetensors")
            if (m := re.fullmatch(r"state-(\d+)\.safetensors", p.name))
        ]
        return max((n for n in found if n < number), default=None)

    def save(self, number: int, state: SiteState) -> None:
        """Write a round's state, then let go of those that no question can need again."""
        arrays = {_OPTIMIZER + k: v for k, v in state.optimizer.items()}
        arrays |= {_WEIGHTS + k: v for k, v in state.weights.items()}
        arrays |= {_CRITIC + k: v for k, v in state.critic.items()}
        write_tensors(self.path(number), arrays, dict(state.texts))
        for path in self.folder.glob("state-*.safetensors"):
            if path not in (self.path(number), self.path(number - 1)):
                path.unlink()

    def load(self, number: int) -> SiteState:
        """Return the state after a round."""
        with TensorFile(self.path(number)) as file:
            arrays = {name: file.read(name) for name in file.slots}
        return SiteState(
            optimizer=part(arrays, _OPTIMIZER),
            weights=part(arrays, _WEIGHTS),
            critic=part(arrays, _CRITIC),
            texts=file.metadata,
        )


def part(arrays: Weights, prefix: str) -> Weights:
    """Return the arrays whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def optimizer_arrays(optimizer: torch.optim.Optimizer, network: nn.Module) -> Weights:
    """Copy an optimiser's state out, named by parameter and quantity."""
    return {
        f"{name}/{key}": value.detach().cpu().contiguous().numpy()
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, arrays: Weights
) -> None:
    """Replace an optimiser's state by what :func:`optimizer_arrays` copied out."""
    optimizer.state.clear()
    parameters = dict(network.named_parameters())
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, array in arrays.items():
        owner, _, key = name.rpartition("/")
        parameter = parameters[owner]
        value = torch.from_numpy(array)
        if key != "step":  # a count; the rest lies in memory as its parameter does
            value = torch.empty_like(parameter).detach().copy_(value)
        elif fused:  # the fused optimisers want the count beside the parameter
            value = value.to(parameter.device)
        optimizer.state[parameter][key] = value
