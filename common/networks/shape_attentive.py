"""SAUNet: a stream of shape beside a U-Net, and a decoder that shows what it attends to.

Source: Sun et al. SAUNet: Shape Attentive U-Net for Interpretable Medical Image Segmentation.
MICCAI 2020. arXiv:2001.07645; the gate of the stream: Takikawa et al. 2019, arXiv:1907.05740.
The encoder is of dense blocks but not DenseNet-121, and the edges of the image are a gradient,
not Canny's. While the network trains, the edges that the stream draws are held against those of
the truth (:mod:`common.losses.edges`).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.losses.edges import Drawn
from common.networks.blocks.attention import ChannelWeights
from common.networks.blocks.bottoms import enlarged
from common.networks.blocks.convolutions import dense, residual
from common.networks.blocks.parts import AttentionMap, Head, Parts
from common.networks.blocks.upsampling import Deconvolution
from common.study.backbones import SAUNet
from common.study.composable import ComposableUNet

FLAT = 1e-6
FIRST_SEEN = 2  # by the shape stream, which begins at the level before it


class GatedStep(nn.Module):
    """s <- C(s (1 + alpha)), alpha = sigma(N C ReLU C N [s, what the encoder says])."""

    def __init__(self, parts: Parts, config: ComposableUNet, width: int, coarse: int) -> None:
        super().__init__()
        self.refine = residual(parts, config, width, width)
        self.say = parts.plain(coarse, 1)
        self.gate = nn.Sequential(
            parts.norm(width + 1), parts.plain(width + 1, width + 1), nn.ReLU(),
            parts.plain(width + 1, 1), parts.norm(1),
        )  # fmt: skip
        self.map, self.leave = AttentionMap(), parts.plain(width, width)

    def forward(self, s: Tensor, seen: Tensor) -> Tensor:
        """(B, width, *space) and a coarser (B, coarse, ...) to (B, width, *space)."""
        s = self.refine(s)
        said = enlarged(self.say(seen), s.shape[2:])
        alpha = self.map(self.gate(torch.cat([s, said], 1)).sigmoid())
        answer: Tensor = self.leave(s * (1 + alpha))
        return answer


class DualAttention(nn.Module):
    """SE(F) (1 + S(F)): channels weighed, and places that count more."""

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        self.join, self.channels = parts.convolution(channels, out), ChannelWeights(parts, out)
        inner = max(out // 2, 1)
        self.place = nn.Sequential(parts.convolution(out, inner, 1), parts.plain(inner, 1))
        self.map = AttentionMap()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, out, *space)."""
        x = self.join(x)
        mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        places = self.map(self.place(x).sigmoid())
        answer: Tensor = x * self.channels(mean) * (1 + places)
        return answer


class ShapeAttentiveUNet(nn.Module):
    """The network; its maps, edges included, pass through ``AttentionMap``."""

    def __init__(self, config: SAUNet, *, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        parts = Parts(dimensions=dimensions, dropout=config.dropout)
        inner, widths = ComposableUNet(), config.widths
        width, self.edge_weight = widths[0], config.edge_weight
        steps = pairwise((channels, *widths))
        self.pool = parts.max_pool()
        self.down = nn.ModuleList(dense(parts, inner, a, b) for a, b in steps)
        self.begin = parts.plain(widths[FIRST_SEEN - 1], width)
        self.shape = nn.ModuleList(
            GatedStep(parts, inner, width, coarse) for coarse in widths[FIRST_SEEN:]
        )
        self.edge, self.edges = parts.plain(width, 1), AttentionMap()
        self.weigh = parts.plain(2, 1)
        self.tell = parts.convolution(1, width, 1)
        self.up = nn.ModuleList(Deconvolution(parts, b, a) for a, b in pairwise(widths))
        self.join = nn.ModuleList(DualAttention(parts, 2 * a, a) for a in widths[:-1])
        self.last = parts.convolution(2 * width, width)
        self.head = Head(dimensions, width, classes, bias=True)

    def forward(self, x: Tensor) -> Tensor | Drawn:
        """(B, channels, *space) to (B, classes, *space); in training with the edges."""
        seen: list[Tensor] = []
        below = x
        for block in self.down:
            below = block(self.pool(below) if seen else below)
            seen.append(below)
        edges, told = self._shape(x, seen)
        for i in reversed(range(len(self.up))):
            below = self.join[i](torch.cat([self.up[i](below), seen[i]], 1))
        logits: Tensor = self.head(self.last(torch.cat([below, told], 1)))
        return Drawn(logits, edges, self.edge_weight) if self.training else logits

    def _shape(self, x: Tensor, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the edges' logits and what is told the last layer, at the image's size."""
        s = enlarged(self.begin(seen[FIRST_SEEN - 1]), x.shape[2:])
        for step, coarse in zip(self.shape, seen[FIRST_SEEN:], strict=True):
            s = step(s, coarse)
        logits: Tensor = self.edge(s)
        both = torch.cat([self.edges(logits.sigmoid()), gradient_of(x)], 1)
        told: Tensor = self.tell(self.weigh(both).sigmoid())
        return logits, told


def gradient_of(x: Tensor) -> Tensor:
    """Return the length of the gradient of the channels' mean, (B, 1, *space), per voxel.

    Central differences; at the border, half the one-sided difference. Where the image is flat
    it is ``FLAT``, so that it has a derivative there too.
    """
    mean = x.mean(1, keepdim=True)
    total = torch.zeros_like(mean)
    padded = functional.pad(mean, (1, 1) * (x.ndim - 2), mode="replicate")
    for axis in range(2, x.ndim):
        inner = padded
        for other in set(range(2, x.ndim)) - {axis}:
            inner = inner.narrow(other, 1, x.shape[other])
        after, before = (inner.narrow(axis, start, x.shape[axis]) for start in (2, 0))
        total = total + ((after - before) / 2).square()
    return (total + FLAT**2).sqrt()


def build_sa_unet(config: SAUNet, *, dimensions: int, channels: int, classes: int) -> nn.Module:
    """Build the network of a configuration."""
    return ShapeAttentiveUNet(config, dimensions=dimensions, channels=channels, classes=classes)
