"""What stands at the bottom of a U-Net: (B, channels, *space) in and out."""

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.networks.blocks.parts import AttentionMap, Parts
from common.study.composable import ComposableUNet

BottomOf = Callable[[Parts, ComposableUNet, int], nn.Module]
FLAT = 2
PSP_BINS = (1, 2, 3, 6)
RMP_SIDES = (2, 3, 5, 6)
ASPP_RATES = {2: (6, 12, 18), 3: (2, 4, 6)}
NODES = 32


def enlarged(x: Tensor, sides: Sequence[int]) -> Tensor:
    """Interpolate (B, C, *space) linearly to other sides."""
    mode = "bilinear" if len(sides) == FLAT else "trilinear"
    return functional.interpolate(x, tuple(sides), mode=mode, align_corners=False)


class NonLocal(nn.Module):
    """x + gamma W softmax(Q K^T / sqrt(d)) V over all places; gamma begins at 0.

    Wang et al. 2018, arXiv:1711.07971, equation 6; in a U-Net, Wang et al. 2020,
    arXiv:1812.04103. Memory grows with the square of the places.
    """

    def __init__(self, parts: Parts, _config: ComposableUNet, channels: int) -> None:
        super().__init__()
        self.inner = max(channels // 2, 1)
        self.project = parts.plain(channels, 3 * self.inner)
        self.leave = parts.plain(self.inner, channels)
        self.gamma, self.map = nn.Parameter(torch.zeros(1)), AttentionMap()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        q, k, v = self.project(x).flatten(2).split(self.inner, 1)
        weights = self.map((q.transpose(1, 2) @ k / sqrt(self.inner)).softmax(-1))
        seen = (weights @ v.transpose(1, 2)).transpose(1, 2)
        answer: Tensor = x + self.gamma * self.leave(seen.reshape(x.shape[0], -1, *x.shape[2:]))
        return answer


class PyramidPooling(nn.Module):
    """The map's means in 1, 2, 3 and 6 parts a side, beside the map (Zhao et al. 2017).

    arXiv:1612.01105. No norm on the means: one of 1 x 1 has no deviation.
    """

    def __init__(self, parts: Parts, _config: ComposableUNet, channels: int) -> None:
        super().__init__()
        width = max(channels // len(PSP_BINS), 1)
        pool = nn.AdaptiveAvgPool2d if parts.dimensions == FLAT else nn.AdaptiveAvgPool3d
        self.branches = nn.ModuleList(
            nn.Sequential(pool(side), parts.convolution(channels, width, 1, norm=False))
            for side in PSP_BINS
        )
        self.join = parts.convolution(channels + width * len(PSP_BINS), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        pooled = [enlarged(branch(x), x.shape[2:]) for branch in self.branches]
        joined: Tensor = self.join(torch.cat([x, *pooled], 1))
        return joined


class DenseAtrous(nn.Module):
    """Paths of dilated convolutions added to the map (Gu et al. 2019, arXiv:1903.02740)."""

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        self.d1 = parts.plain(channels, channels, 3)
        self.d3 = parts.plain(channels, channels, 3, dilation=3)
        self.d5 = parts.plain(channels, channels, 3, dilation=5)
        self.leave, self.act = parts.plain(channels, channels), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        near = self.d1(x)
        middle = self.d3(near)
        paths = [self.leave(y) for y in (self.d3(x), middle, self.d5(middle))]
        answer: Tensor = x + torch.stack([self.act(path) for path in (near, *paths)]).sum(0)
        return answer


class MultiKernelPooling(nn.Module):
    """Poolings of several sizes, each brought to one channel, joined (Gu et al. 2019).

    arXiv:1903.02740 (RMP). A kernel larger than the map is as large as it.
    """

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        self.one = parts.plain(channels, 1)
        self.join = parts.convolution(channels + len(RMP_SIDES), channels, 1)
        self._pool = (
            functional.max_pool2d if parts.dimensions == FLAT else functional.max_pool3d
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        sides = x.shape[2:]
        pooled = [self._pool(x, [min(k, side) for side in sides]) for k in RMP_SIDES]
        channels = [enlarged(self.one(p), sides) for p in pooled]
        joined: Tensor = self.join(torch.cat([x, *channels], 1))
        return joined


def dac_rmp(parts: Parts, _config: ComposableUNet, channels: int) -> nn.Module:
    """Return what stands at the bottom of CE-Net."""
    return nn.Sequential(DenseAtrous(parts, channels), MultiKernelPooling(parts, channels))


class ASPP(nn.Module):
    """Convolutions of several dilations and the map's mean, side by side.

    Chen et al. 2017, arXiv:1706.05587; the rates in 3-D are smaller, as the maps are.
    """

    def __init__(self, parts: Parts, _config: ComposableUNet, channels: int) -> None:
        super().__init__()
        width = max(channels // 2, 1)
        rates = ASPP_RATES[parts.dimensions]
        self.branches = nn.ModuleList(
            [
                parts.convolution(channels, width, 1),
                *[parts.convolution(channels, width, dilation=rate) for rate in rates],
            ]
        )
        self.mean = parts.convolution(channels, width, 1, norm=False)
        self.join = parts.convolution(width * (len(rates) + 2), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        mean = self.mean(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        everywhere = mean.expand(-1, -1, *x.shape[2:])
        seen = [branch(x) for branch in self.branches]
        joined: Tensor = self.join(torch.cat([*seen, everywhere], 1))
        return joined


class HybridDilation(nn.Module):
    """Dilated convolutions whose rates go up like a saw's teeth, each beside a shortcut.

    Wang et al. 2018, arXiv:1702.08502; that the rates leave no hole is checked with the study.
    """

    def __init__(self, parts: Parts, config: ComposableUNet, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            parts.convolution(channels, channels, dilation=rate) for rate in config.rates
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        for layer in self.layers:
            x = x + layer(x)
        return x


def aspp_nonlocal(parts: Parts, config: ComposableUNet, channels: int) -> nn.Module:
    """Return atrous pyramid pooling, then self-attention."""
    return nn.Sequential(ASPP(parts, config, channels), NonLocal(parts, config, channels))


class GraphReasoning(nn.Module):
    """Places gathered into nodes, nodes that exchange, and back to the places.

    V = B phi(x)^T, V <- ReLU((I - A) V W), x + gamma C(B^T V): Chen et al. 2019,
    arXiv:1811.12814, equations 2 to 4; each node's weights over the places sum to one.
    """

    def __init__(self, parts: Parts, _config: ComposableUNet, channels: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.assign, self.reduce = parts.plain(channels, NODES), parts.plain(channels, inner)
        self.adjacency = nn.Parameter(torch.randn(NODES, NODES) / NODES)
        self.state = nn.Linear(inner, inner)
        self.leave, self.gamma = parts.plain(inner, channels), nn.Parameter(torch.zeros(1))
        self.act, self.map = nn.ReLU(), AttentionMap()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        assigned = self.map(self.assign(x).flatten(2).softmax(1))  # (B, nodes, places)
        total = assigned.sum(-1, keepdim=True).clamp_min(1e-6)
        nodes = assigned @ self.reduce(x).flatten(2).transpose(1, 2) / total
        nodes = self.act(self.state(nodes - self.adjacency @ nodes))
        seen = (assigned.transpose(1, 2) @ nodes).transpose(1, 2)
        answer: Tensor = x + self.gamma * self.leave(seen.reshape(x.shape[0], -1, *x.shape[2:]))
        return answer
