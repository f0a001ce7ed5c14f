"""The blocks that a level is made of: (B, channels, *space) to (B, out, *space)."""

from collections.abc import Callable
from itertools import pairwise

import torch
from monai.networks.blocks.convolutions import ResidualUnit
from monai.networks.blocks.denseblock import ConvDenseBlock
from torch import Tensor, nn

from common.networks.blocks.parts import ACTIVATIONS, AFFINE_INSTANCE, Parts
from common.study.composable import ComposableUNet

DENSE_LAYERS = 3
RECURRENT_STEPS = 2
BlockOf = Callable[[Parts, ComposableUNet, int, int], nn.Module]


def plain(parts: Parts, config: ComposableUNet, channels: int, out: int) -> nn.Module:
    """Return convolutions one after another (Ronneberger et al. 2015, arXiv:1505.04597)."""
    first = max(out // 2, 1) if config.doubling and out > channels else out
    widths = [channels, first, *[out] * (config.convolutions - 1)]
    return nn.Sequential(*[parts.convolution(a, b) for a, b in pairwise(widths)])


def residual(parts: Parts, config: ComposableUNet, channels: int, out: int) -> nn.Module:
    """Return two convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385)."""
    block: nn.Module = ResidualUnit(
        spatial_dims=parts.dimensions, in_channels=channels, out_channels=out, subunits=2,
        act=ACTIVATIONS[config.activation], norm=AFFINE_INSTANCE,
        dropout=parts.dropout or None, dropout_dim=parts.dimensions,
    )  # fmt: skip
    return block


def dense(parts: Parts, config: ComposableUNet, channels: int, out: int) -> nn.Module:
    """Return layers that each see all before them, then a transition.

    Huang et al. 2017, arXiv:1608.06993; Li et al. 2018, arXiv:1709.07330.
    """
    growth = max(out // DENSE_LAYERS, 1)
    layers = ConvDenseBlock(
        spatial_dims=parts.dimensions, in_channels=channels,
        channels=[growth] * DENSE_LAYERS, act=ACTIVATIONS[config.activation],
        norm=AFFINE_INSTANCE, dropout=parts.dropout or None,
    )  # fmt: skip
    transition = parts.convolution(channels + growth * DENSE_LAYERS, out, 1)
    return nn.Sequential(layers, transition)


def separable(parts: Parts, _config: ComposableUNet, channels: int, out: int) -> nn.Module:
    """Return 3-D convolutions separated by channel and along depth, twice.

    Depthwise (3, 3, 1), depthwise (1, 1, 3), then pointwise; Zhang et al. 2019, IJCAI,
    doi:10.24963/ijcai.2019/593.
    """
    return nn.Sequential(*[_separated(parts, a, out) for a in (channels, out)])


def _separated(parts: Parts, channels: int, out: int) -> nn.Module:
    return nn.Sequential(
        parts.plain(channels, channels, (3, 3, 1), groups=channels, bias=False),
        parts.plain(channels, channels, (1, 1, 3), groups=channels, bias=False),
        parts.convolution(channels, out, 1),
    )


def pseudo3d(parts: Parts, _config: ComposableUNet, channels: int, out: int) -> nn.Module:
    """Return convolutions within slices, each followed by one across them.

    Qiu et al. 2017, arXiv:1711.10305 (the serial form, P3D-A).
    """
    return nn.Sequential(
        parts.convolution(channels, out, (3, 3, 1)),
        parts.convolution(out, out, (1, 1, 3)),
        parts.convolution(out, out, (3, 3, 1)),
        parts.convolution(out, out, (1, 1, 3)),
    )


def depthwise(parts: Parts, _config: ComposableUNet, channels: int, out: int) -> nn.Module:
    """Return depthwise separable convolutions, twice; no norm between the two halves.

    Howard et al. 2017, arXiv:1704.04861: k*k*M weights by channel and M*N across them.
    """
    pairs = [
        layer
        for a in (channels, out)
        for layer in (parts.plain(a, a, 3, groups=a, bias=False), parts.convolution(a, out, 1))
    ]
    return nn.Sequential(*pairs)


class Inception(nn.Module):
    """Kernels of 1, 3 and 5 (as two of 3) and a pooling side by side, joined.

    Szegedy et al. 2015, arXiv:1409.4842; two 3 for a 5: Szegedy et al. 2016, arXiv:1512.00567.
    """

    def __init__(self, parts: Parts, _config: ComposableUNet, channels: int, out: int) -> None:
        super().__init__()
        width = max(out // 4, 1)
        pool = nn.MaxPool2d if parts.dimensions == 2 else nn.MaxPool3d  # noqa: PLR2004
        self.branches = nn.ModuleList(
            [
                parts.convolution(channels, width, 1),
                nn.Sequential(
                    parts.convolution(channels, width, 1), parts.convolution(width, width)
                ),
                nn.Sequential(
                    parts.convolution(channels, width, 1),
                    parts.convolution(width, width),
                    parts.convolution(width, width),
                ),
                nn.Sequential(pool(3, 1, 1), parts.convolution(channels, width, 1)),
            ]
        )
        self.join = parts.convolution(4 * width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, out, *space)."""
        joined: Tensor = self.join(torch.cat([branch(x) for branch in self.branches], 1))
        return joined


class RecurrentConvolution(nn.Module):
    """h_0 = f(x); h_k = f(x + h_{k-1}) with the same f (Liang and Hu 2015, CVPR)."""

    def __init__(self, parts: Parts, channels: int, steps: int = RECURRENT_STEPS) -> None:
        super().__init__()
        self.step, self.steps = parts.convolution(channels, channels), steps

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        h: Tensor = self.step(x)
        for _ in range(self.steps):
            h = self.step(x + h)
        return h


class Recurrent(nn.Module):
    """Recurrent convolutions beside a shortcut (Alom et al. 2018, arXiv:1802.06955)."""

    def __init__(self, parts: Parts, config: ComposableUNet, channels: int, out: int) -> None:
        super().__init__()
        self.enter = parts.plain(channels, out, 1)
        layers = [RecurrentConvolution(parts, out) for _ in range(config.convolutions)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, out, *space)."""
        x = self.enter(x)
        answer: Tensor = x + self.layers(x)
        return answer


BLOCKS: dict[str, BlockOf] = {
    "plain": plain,
    "residual": residual,
    "dense": dense,
    "inception": Inception,
    "depthwise": depthwise,
    "recurrent": Recurrent,
    "separable": separable,
    "pseudo3d": pseudo3d,
}
