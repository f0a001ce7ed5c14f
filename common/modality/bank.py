"""One normalisation layer per modality, put into any network; convolutions stay shared.

Source: Dou et al. Unpaired Multi-modal Segmentation via Knowledge Distillation. IEEE TMI 39(7),
2020. arXiv:2001.03111 (separate internal normalisation); Bernecker et al. FedNorm. 2022.
arXiv:2205.11096 (modality-wise normalisation in a federation).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

FLAT, LARGEST_GROUPS = 2, 8
REPLACED = (_NormBase, nn.GroupNorm)  # a transformer's layer norms stay what they are
NORMS = (*REPLACED, nn.LayerNorm)


@final
class ModalityNorm(nn.Module):
    """A bank of one normalisation layer, a copy for each modality.

    Attributes:
        bank: The copies, by modality.
        route: The modality of the batch, or one a sample; set by :func:`set_modality`.
    """

    def __init__(self, norm: nn.Module, modalities: Sequence[str]) -> None:
        super().__init__()
        self.bank = nn.ModuleDict({name: copy.deepcopy(norm) for name in modalities})
        self.route: str | tuple[str, ...] = modalities[0]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each sample with the layer of its modality; (B, C, *space) in and out.

        Where a network has cut its samples into windows or slices, B is a multiple of the
        samples, and those of one sample stand together.
        """
        if isinstance(self.route, str):
            normalised: Tensor = self.bank[self.route](x)
            return normalised
        pieces = x.shape[0] // len(self.route)
        parts = []
        order: list[int] = []
        for name in sorted(set(self.route)):
            rows = [i for i in range(x.shape[0]) if self.route[i // pieces] == name]
            parts.append(self.bank[name](x[rows]))
            order += rows
        back = torch.tensor(order, device=x.device).argsort()
        return torch.cat(parts)[back]


def set_modality(network: nn.Module, route: str | Sequence[str]) -> None:
    """Choose the normalisation of the next forward pass.

    Args:
        network: Any network; one without banks is left as it is.
        route: One modality for the whole batch, or one for each of its samples.
    """
    chosen: str | tuple[str, ...] = route if isinstance(route, str) else tuple(route)
    if not isinstance(chosen, str) and len(set(chosen)) == 1:
        chosen = chosen[0]
    for module in network.modules():
        if isinstance(module, ModalityNorm):
            module.route = chosen


def replace_norms(network: nn.Module, norm: str, dimensions: int = 3) -> None:
    """Give every normalisation layer of a network another type, with affine parameters.

    Args:
        network: Changed in place.
        norm: ``group`` (the largest number of groups up to 8 that divides the channels),
            ``batch``, ``instance`` or ``layer`` (over channels and space).
        dimensions: 2 or 3, of the maps of layers that do not tell it: group norms.
    """
    _swap(network, lambda layer: _norm_like(layer, norm, dimensions), REPLACED)


def put_banks(network: nn.Module, modalities: Sequence[str]) -> None:
    """Put a bank in the place of every normalisation layer of a network, in place."""
    _swap(network, lambda layer: ModalityNorm(layer, modalities), NORMS)


def fold(network: nn.Module, modality: str) -> nn.Module:
    """Return a copy for one modality in which the banks are plain layers again."""
    plain = copy.deepcopy(network)
    for parent, name, bank in list(_children(plain, ModalityNorm)):
        if isinstance(bank, ModalityNorm):
            parent._modules[name] = bank.bank[modality]  # noqa: SLF001
    return plain


def norm_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, layer) of every plain normalisation layer, those in banks included."""
    for name, module in network.named_modules():
        if isinstance(module, NORMS):
            yield name, module


def _swap(
    network: nn.Module,
    make: Callable[[nn.Module], nn.Module],
    kinds: tuple[type[nn.Module], ...],
) -> None:
    """Replace each norm once, in every place where a network registers it (DynUNet: twice)."""
    made: dict[int, nn.Module] = {}
    for parent, name, layer in list(_children(network, kinds)):
        if id(layer) not in made:
            made[id(layer)] = make(layer)
        parent._modules[name] = made[id(layer)]  # noqa: SLF001


def _children(
    network: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in network.modules():
        if isinstance(parent, ModalityNorm):
            continue
        for name, child in parent.named_children():
            if isinstance(child, kind):
                yield parent, name, child


def _norm_like(layer: nn.Module, norm: str, dimensions: int) -> nn.Module:
    channels = int(getattr(layer, "num_features", 0) or getattr(layer, "num_channels", 0))
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    if norm == "group":
        groups = max(n for n in range(1, LARGEST_GROUPS + 1) if channels % n == 0)
        return nn.GroupNorm(groups, channels)
    is_group = isinstance(layer, nn.GroupNorm)
    flat = dimensions == FLAT if is_group else "2d" in type(layer).__name__
    if norm == "batch":
        return (nn.BatchNorm2d if flat else nn.BatchNorm3d)(channels)
    return (nn.InstanceNorm2d if flat else nn.InstanceNorm3d)(channels, affine=True)
