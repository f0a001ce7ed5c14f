"""U-Nets with a convolutional LSTM: on the skips, or along the slices of a volume."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from common.networks.blocks.parts import Head, Parts
from common.networks.blocks.recurrent import BidirectionalConvLSTM
from common.networks.blocks.upsampling import Deconvolution
from common.study.backbones import BCDUNet, SliceLSTM


class RecurrentSkips(nn.Module):
    """BCDU-Net: what joins a level is the last state over the sequence skip, risen map.

    Azad et al. 2019, arXiv:1909.00166. The bottom's blocks are densely connected. The paper
    joins the two directions by a convolution and tanh; here they stand side by side before the
    level's two convolutions.
    """

    def __init__(
        self, config: BCDUNet, *, dimensions: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        parts = Parts(dimensions=dimensions, activation="relu", dropout=config.dropout)
        widths = config.widths
        self.pool = parts.max_pool()
        self.down = nn.ModuleList(parts.twice(a, b) for a, b in pairwise((channels, *widths)))
        self.bottom = nn.ModuleList(
            parts.twice(widths[-1] * seen, widths[-1]) for seen in range(1, config.dense)
        )
        self.up, self.recur, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(widths):
            risen = Deconvolution(parts, coarse, fine)
            self.up.append(nn.Sequential(risen, parts.norm(fine), parts.act()))
            recur = BidirectionalConvLSTM(parts, fine, fine)
            self.recur.append(recur)
            self.join.append(parts.twice(recur.out, fine))
        self.head = Head(dimensions, widths[0], classes, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, classes, *space)."""
        skips: list[Tensor] = []
        for block in self.down:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        seen = [skips.pop()]
        for block in self.bottom:
            seen.append(block(torch.cat(seen, 1)))
        x = seen[-1]
        for i in reversed(range(len(skips))):
            there, back = self.recur[i]([skips[i], self.up[i](x)])
            x = self.join[i](torch.cat([there[-1], back[0]], 1))
        logits: Tensor = self.head(x)
        return logits


class SliceRecurrent(nn.Module):
    """A 2-D U-Net whose coarsest maps are read along the slices, there and back.

    Novikov et al. 2018, arXiv:1807.02437 (sensor3D); the recurrent layer at the bottom, not the
    paper's second one before the head. Slices stand along the last axis.
    """

    def __init__(self, config: SliceLSTM, *, channels: int, classes: int) -> None:
        super().__init__()
        parts, widths = Parts(dimensions=2, dropout=config.dropout), config.widths
        self.pool = parts.max_pool()
        self.down = nn.ModuleList(parts.twice(a, b) for a, b in pairwise((channels, *widths)))
        self.recur = BidirectionalConvLSTM(parts, widths[-1], widths[-1])
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        coarsest = [*widths[1:-1], self.recur.out]
        for fine, coarse in zip(widths[:-1], coarsest, strict=True):
            self.up.append(Deconvolution(parts, coarse, fine))
            self.join.append(parts.twice(2 * fine, fine))
        self.head = Head(2, widths[0], classes, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W, D) to (B, classes, H, W, D)."""
        samples, depth = x.shape[0], x.shape[-1]
        x = slices_of(x)
        skips: list[Tensor] = []
        for block in self.down:
            x = block(self.pool(x) if skips else x)
            skips.append(x)
        read = self.recur(skips.pop().unflatten(0, (samples, depth)).unbind(1))
        states = [torch.cat(both, 1) for both in zip(*read, strict=True)]
        x = torch.stack(states, 1).flatten(0, 1)
        for i in reversed(range(len(skips))):
            x = self.join[i](torch.cat([skips[i], self.up[i](x)], 1))
        logits: Tensor = self.head(x)
        return volume_of(logits, samples)


def slices_of(x: Tensor) -> Tensor:
    """(B, C, H, W, D) to (B * D, C, H, W), those of one sample together."""
    return x.movedim(-1, 1).flatten(0, 1)


def volume_of(x: Tensor, samples: int) -> Tensor:
    """(B * D, C, H, W) to (B, C, H, W, D)."""
    volume: Tensor = x.unflatten(0, (samples, -1)).movedim(1, -1)
    return volume


def build_bcdu_net(
    config: BCDUNet, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the network of a configuration."""
    return RecurrentSkips(config, dimensions=dimensions, channels=channels, classes=classes)


def build_slice_lstm(
    config: SliceLSTM,
    *,
    dimensions: int,  # noqa: ARG001 # always 3
    channels: int,
    classes: int,
) -> nn.Module:
    """Build the network of a configuration."""
    return SliceRecurrent(config, channels=channels, classes=classes)
