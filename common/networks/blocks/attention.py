"""What weighs the finer map before it joins: (skip, coarser map) to one of the skip's shape."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.networks.blocks.parts import AttentionMap, Parts

REDUCTION = 8  # of channels in a squeeze; 16 in the paper, whose maps are wider
AttentionOf = Callable[[Parts, int, int], nn.Module]


def _squeezed(channels: int) -> int:
    return max(channels // REDUCTION, 2)


def _mean_over_space(x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def _max_over_space(x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)


class ChannelWeights(nn.Module):
    """sigma(W_2 delta(W_1 z)) of one or more descriptions z of the channels.

    Hu et al. 2018, arXiv:1709.01507, equation 3; with two descriptions, Woo et al. 2018.
    """

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        squeezed = _squeezed(channels)
        self.layers = nn.Sequential(
            parts.plain(channels, squeezed), nn.ReLU(), parts.plain(squeezed, channels)
        )
        self.map = AttentionMap()

    def forward(self, *descriptions: Tensor) -> Tensor:
        """Each (B, channels, 1, ...), one weight a channel out."""
        total = torch.stack([self.layers(z) for z in descriptions]).sum(0)
        weights: Tensor = self.map(total.sigmoid())
        return weights


class SqueezeExcitation(nn.Module):
    """Channels weighed by what they are on average (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, parts: Parts, channels: int, _coarse: int) -> None:
        super().__init__()
        self.channels = ChannelWeights(parts, channels)

    def forward(self, skip: Tensor, _coarse: Tensor) -> Tensor:
        """Weigh (B, channels, *space) by channel."""
        weighed: Tensor = skip * self.channels(_mean_over_space(skip))
        return weighed


class SCSE(nn.Module):
    """The larger of what channel and place let through.

    Roy et al. 2018, arXiv:1803.02579, equations 2 and 3, joined by the maximum (Roy et al.
    2019, TMI, arXiv:1808.08127).
    """

    def __init__(self, parts: Parts, channels: int, _coarse: int) -> None:
        super().__init__()
        self.channels = ChannelWeights(parts, channels)
        self.place, self.map = parts.plain(channels, 1), AttentionMap()

    def forward(self, skip: Tensor, _coarse: Tensor) -> Tensor:
        """Weigh (B, channels, *space) by channel and by place."""
        by_channel = skip * self.channels(_mean_over_space(skip))
        by_place = skip * self.map(self.place(skip).sigmoid())
        return torch.maximum(by_channel, by_place)


class CBAM(nn.Module):
    """Channels weighed by their mean and maximum, then places by theirs.

    Woo et al. 2018, arXiv:1807.06521, equations 2 and 3.
    """

    def __init__(self, parts: Parts, channels: int, _coarse: int) -> None:
        super().__init__()
        self.channels = ChannelWeights(parts, channels)
        self.place, self.map = parts.plain(2, 1, 7, bias=False), AttentionMap()

    def forward(self, skip: Tensor, _coarse: Tensor) -> Tensor:
        """Weigh (B, channels, *space) by channel, then by place."""
        x = skip * self.channels(_mean_over_space(skip), _max_over_space(skip))
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        weighed: Tensor = x * self.map(self.place(seen).sigmoid())
        return weighed


class AttentionGate(nn.Module):
    """Places weighed by whether the coarser map asks for them.

    alpha = sigma(psi^T ReLU(W_x x + W_g g + b_g) + b_psi), taken at the coarser map's size and
    enlarged; Oktay et al. 2018, arXiv:1804.03999, equation 1.
    """

    def __init__(self, parts: Parts, channels: int, coarse: int) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        convolution = nn.Conv2d if parts.dimensions == 2 else nn.Conv3d  # noqa: PLR2004
        self.of_skip = convolution(channels, inner, 2, stride=2, bias=False)
        self.of_coarse = parts.plain(coarse, inner)
        self.act, self.psi, self.map = nn.ReLU(), parts.plain(inner, 1), AttentionMap()
        self.leave = parts.convolution(channels, channels, 1, act=False)
        self._mode = "bilinear" if parts.dimensions == 2 else "trilinear"  # noqa: PLR2004

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """Weigh (B, channels, *space) by place; ``coarse`` has half its sides."""
        asked = self.psi(self.act(self.of_skip(skip) + self.of_coarse(coarse)))
        sides = skip.shape[2:]
        enlarged = functional.interpolate(
            asked.sigmoid(), sides, mode=self._mode, align_corners=False
        )
        weighed: Tensor = self.leave(skip * self.map(enlarged))
        return weighed


ATTENTION: dict[str, AttentionOf] = {
    "gate": AttentionGate,
    "se": SqueezeExcitation,
    "scse": SCSE,
    "cbam": CBAM,
}
