"""Ki-Net and KiU-Net: maps that grow where a U-Net's shrink.

Source: Valanarasu et al. KiU-Net. MICCAI 2020. arXiv:2006.04878; in 3-D and with the residual
exchange: IEEE TMI 41(4), 2022. arXiv:2010.01663.
"""

from itertools import pairwise

from torch import Tensor, nn

from common.networks.blocks.bottoms import enlarged
from common.networks.blocks.parts import Head, Parts
from common.study.backbones import KiNet, KiUNet


class Stage(nn.Module):
    """A convolution, the map doubled or halved, norm, activation."""

    def __init__(self, parts: Parts, channels: int, out: int, *, doubles: bool) -> None:
        super().__init__()
        self.convolution = parts.plain(channels, out, 3)
        self.pool = nn.Identity() if doubles else parts.max_pool()
        self.norm, self.act = parts.norm(out), parts.act()
        self._doubles = doubles

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, out, *space), of twice or half the sides."""
        x = self.pool(self.convolution(x))
        if self._doubles:
            x = enlarged(x, [2 * side for side in x.shape[2:]])
        answer: Tensor = self.act(self.norm(x))
        return answer


class Branch(nn.Module):
    """Stages that double the map (Ki-Net's) or halve it (U-Net's), and as many back."""

    def __init__(
        self, parts: Parts, channels: int, widths: tuple[int, ...], *, doubles: bool
    ) -> None:
        super().__init__()
        back = (*widths[::-1], widths[0])
        self.out = nn.ModuleList(
            Stage(parts, a, b, doubles=doubles) for a, b in pairwise((channels, *widths))
        )
        self.back = nn.ModuleList(
            Stage(parts, a, b, doubles=not doubles) for a, b in pairwise(back)
        )


class Exchange(nn.Module):
    """Cross residual fusion: each map is told what a convolution makes of the other one."""

    def __init__(self, parts: Parts, width: int) -> None:
        super().__init__()
        self.to_u, self.to_k = parts.convolution(width, width), parts.convolution(width, width)

    def forward(self, u: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps, each of its own size."""
        told_u = enlarged(self.to_u(k), u.shape[2:])
        told_k = enlarged(self.to_k(u), k.shape[2:])
        return u + told_u, k + told_k


class OverCompleteNet(nn.Module):
    """Ki-Net: one branch, its skips added."""

    def __init__(self, config: KiNet, *, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        parts = Parts(dimensions=dimensions, activation="relu", dropout=config.dropout)
        self.branch = Branch(parts, channels, config.widths, doubles=True)
        self.head = Head(dimensions, config.widths[0], classes, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, classes, *space)."""
        skips: list[Tensor] = []
        for stage in self.branch.out:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for stage in self.branch.back:
            x = stage(x)
            x = x + skips.pop() if skips else x
        logits: Tensor = self.head(x)
        return logits


class TwoBranches(nn.Module):
    """KiU-Net: both branches, an exchange after each stage but the last, sums at the end."""

    def __init__(self, config: KiUNet, *, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        parts = Parts(dimensions=dimensions, activation="relu", dropout=config.dropout)
        widths = config.widths
        self.u = Branch(parts, channels, widths, doubles=False)
        self.k = Branch(parts, channels, widths, doubles=True)
        self.out = nn.ModuleList(Exchange(parts, width) for width in widths)
        self.back = nn.ModuleList(Exchange(parts, width) for width in widths[-2::-1])
        self.head = Head(dimensions, widths[0], classes, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, classes, *space)."""
        u = k = x
        skips: list[tuple[Tensor, Tensor]] = []
        for to_u, to_k, exchange in zip(self.u.out, self.k.out, self.out, strict=True):
            u, k = exchange(to_u(u), to_k(k))
            skips.append((u, k))
        skips.pop()
        for to_u, to_k, exchange in zip(self.u.back, self.k.back, self.back, strict=False):
            u, k = exchange(to_u(u), to_k(k))
            skip_u, skip_k = skips.pop()
            u, k = u + skip_u, k + skip_k
        u, k = self.u.back[-1](u), self.k.back[-1](k)
        logits: Tensor = self.head(u + k)
        return logits


def build_ki_net(config: KiNet, *, dimensions: int, channels: int, classes: int) -> nn.Module:
    """Build the network of a configuration."""
    return OverCompleteNet(config, dimensions=dimensions, channels=channels, classes=classes)


def build_kiu_net(config: KiUNet, *, dimensions: int, channels: int, classes: int) -> nn.Module:
    """Build the network of a configuration."""
    return TwoBranches(config, dimensions=dimensions, channels=channels, classes=classes)
