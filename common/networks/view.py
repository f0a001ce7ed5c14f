"""A network seen as the named arrays that cross the wire.

Every parameter and floating buffer once (a state dict of DynUNet carries each weight twice),
the last convolution cut into one piece per label, integer buffers left out: they are counters
and mean nothing averaged.
"""

from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from common.modality.bank import norm_layers
from common.networks.blocks.parts import Head
from common.parameters import SHARED, SITE_ONLY, Parameter, Table, check_weights
from common.study.study import Study
from common.tensors import Weights

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)


@final
class NamedArrays:
    """Reads and writes a network's arrays by their names on the wire.

    Attributes:
        table: Name, shape, type and kind of each.
    """

    def __init__(self, network: nn.Module, study: Study) -> None:
        self._tensors: dict[str, Tensor] = {}
        self.table: Table = {}
        kind_of = _kinds(network, study)
        heads = _heads(network)
        for name, tensor in _tensors_of(network):
            if name in heads:
                for i, label in enumerate(study.classes):
                    piece = tensor.detach().select(heads[name], i)
                    self._add(f"{name}#{label}", piece, f"head:{label}")
            else:
                self._add(name, tensor.detach(), kind_of(name))

    def _add(self, name: str, tensor: Tensor, kind: str) -> None:
        dtype = str(tensor.dtype).removeprefix("torch.")
        self._tensors[name] = tensor
        self.table[name] = Parameter(name, tuple(tensor.shape), dtype, kind)

    def read(self, wanted: Callable[[str], bool] = lambda _kind: True) -> Weights:
        """Copy out the arrays whose kind is wanted."""
        return {
            name: self._tensors[name].to("cpu", copy=True).contiguous().numpy()
            for name, parameter in self.table.items()
            if wanted(parameter.kind)
        }

    def write(self, weights: Weights) -> None:
        """Copy arrays into the network.

        Raises:
            IncompatibleWeightsError: If one is unknown or has another shape or type; then
                nothing was changed.
        """
        check_weights(weights, {n: self.table[n] for n in weights if n in self.table})
        with torch.no_grad():
            for name, array in weights.items():
                # NumPy arrays from the wire may be read-only, which torch warns about
                self._tensors[name].copy_(torch.from_numpy(np.array(array)))


def _tensors_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer


def _heads(network: nn.Module) -> dict[str, int]:
    """Name the arrays of the last convolutions, with the axis on which their labels stand."""
    modules = dict(network.named_modules())
    names = [f"{name}.convolution" for name, m in modules.items() if isinstance(m, Head)]
    if not names:
        names = [name for name, m in modules.items() if isinstance(m, _CONVOLUTIONS)][-1:]
    heads = {}
    for name in names:
        layer = modules[name]
        heads[f"{name}.weight"] = 1 if isinstance(layer, _TRANSPOSED) else 0
        if layer.bias is not None:
            heads[f"{name}.bias"] = 0
    return heads


def _kinds(network: nn.Module, study: Study) -> Callable[[str], str]:
    norms = {name for name, _ in norm_layers(network)}
    sharing = study.sharing.norm

    def kind_of(name: str) -> str:
        layer, _, leaf = name.rpartition(".")
        if layer not in norms or sharing == "everything":
            return SHARED
        if sharing == "per_modality":
            return f"modality:{layer.rpartition('.bank.')[2]}"
        if sharing == "local" or leaf.startswith("running_"):
            return SITE_ONLY
        return SHARED

    return kind_of
