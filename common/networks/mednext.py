"""MedNeXt, and its kernels made larger; see :class:`common.study.backbones.MedNeXt`.

Source: Roy et al. MedNeXt. MICCAI 2023. arXiv:2303.09975 (the four sizes; UpKern);
MONAI MedNeXt.
"""

from typing import Any

import torch
from monai.networks.nets.mednext import MedNeXt as MonaiMedNeXt
from torch import Tensor, nn

from common.errors import InputError
from common.networks.blocks.bottoms import enlarged
from common.networks.blocks.parts import Head
from common.study.backbones import MedNeXt, MednextSize

Sizes = tuple[tuple[int, ...], tuple[int, ...]]
# expansion of the inverted bottlenecks, and blocks: of the four levels down and of the bottom
SIZES: dict[MednextSize, Sizes] = {
    "S": ((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": ((2, 3, 4, 4, 4), (2, 2, 2, 2, 2)),
    "M": ((2, 3, 4, 4, 4), (3, 4, 4, 4, 4)),
    "L": ((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


def build_mednext(
    config: MedNeXt, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build MONAI's MedNeXt; while it trains it may answer with a tuple, the finest first."""
    expansion, blocks = SIZES[config.size]
    sizes: dict[str, Any] = {
        "encoder_expansion_ratio": expansion[:4],
        "bottleneck_expansion_ratio": expansion[4],
        "decoder_expansion_ratio": expansion[3::-1],
        "blocks_down": blocks[:4],
        "blocks_bottleneck": blocks[4],
        "blocks_up": blocks[3::-1],
    }
    network = MonaiMedNeXt(
        spatial_dims=dimensions, init_filters=config.filters, in_channels=channels,
        out_channels=classes, kernel_size=config.kernel_size,
        deep_supervision=config.deep_supervision, use_residual_connection=True, **sizes,
    )  # fmt: skip
    widths = [config.filters * 2**level for level in range(len(blocks))]
    finest, *coarser = [Head(dimensions, width, classes, bias=True) for width in widths]
    network.out_0 = finest  # type: ignore[assignment] # computes the same
    if config.deep_supervision:
        network.out_blocks = nn.ModuleList(reversed(coarser))
    return network


def upkern(small: nn.Module, large: nn.Module) -> None:
    """Begin a network of large kernels with the weights of one of smaller kernels.

    A kernel is interpolated linearly to the larger one's sides; everything else is copied.

    Args:
        small: Trained, of the same configuration but for the kernel; not changed.
        large: Its arrays are written over.

    Raises:
        InputError: If the two differ in more than the sides of kernels; nothing was changed.
    """
    sources, targets = small.state_dict(), large.state_dict()
    if sources.keys() != targets.keys():
        different = min(sources.keys() ^ targets.keys())
        raise InputError(f"{different}: only one of the two networks has it")
    fitted = {name: _fitted(name, sources[name], targets[name]) for name in targets}
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(fitted[name])


def _fitted(name: str, source: Tensor, target: Tensor) -> Tensor:
    if source.shape == target.shape:
        return source
    is_kernel = source.ndim == target.ndim and source.ndim in (4, 5)
    if not is_kernel or source.shape[:2] != target.shape[:2]:
        found, expected = tuple(source.shape), tuple(target.shape)
        raise InputError(f"{name}: shape {found} cannot become {expected}; only kernels grow")
    return enlarged(source, target.shape[2:])
