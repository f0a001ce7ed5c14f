"""V-Net of MONAI's transitions, at any width; see :class:`common.study.backbones.VNet`.

Source: Milletari et al. V-Net. 3DV 2016. arXiv:1606.04797; MONAI VNet. Its parts are put
together here because MONAI's own class has a fixed width, keeps a dropout of 0.5 on two skips
whatever it is asked, and takes only numbers of channels that divide 16.
"""

from typing import Any

from monai.networks.nets.vnet import (
    DownTransition,
    InputTransition,
    OutputTransition,
    UpTransition,
)
from torch import Tensor, nn

from common.networks.blocks.parts import ACTIVATIONS, Parts
from common.study.backbones import VNet

CONVOLUTIONS_DOWN, CONVOLUTIONS_UP = (1, 2, 3, 2), (2, 2, 1, 1)  # finest first; coarsest first
DROPPED_LEVELS = 2  # the coarsest, as in MONAI


class ResidualVNet(nn.Module):
    """Residual levels; strided convolutions down, transposed ones up, skips joined."""

    def __init__(self, config: VNet, *, dimensions: int, channels: int, classes: int) -> None:
        super().__init__()
        width, act = config.width, ACTIVATIONS["elu"]
        dropout: dict[str, Any] = {"dropout_dim": dimensions}
        parts = Parts(dimensions=dimensions)
        # the input is added to the first map, repeated: its channels must divide the width
        fits = width % channels == 0
        self.enter = nn.Identity() if fits else parts.plain(channels, width)
        self.first = InputTransition(dimensions, channels if fits else width, width, act)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, convolutions in enumerate(CONVOLUTIONS_DOWN):
            dropped = i >= len(CONVOLUTIONS_DOWN) - DROPPED_LEVELS and config.dropout > 0
            self.down.append(
                DownTransition(
                    dimensions, width * 2**i, convolutions, act,
                    dropout_prob=config.dropout if dropped else None, **dropout,
                )
            )  # fmt: skip
        below = 16 * width
        for i, convolutions in enumerate(CONVOLUTIONS_UP):
            out = width * 2 ** (4 - i)
            self.up.append(
                UpTransition(
                    dimensions, below, out, convolutions, act,
                    dropout_prob=(None, config.dropout), **dropout,
                )
            )  # fmt: skip
            below = out
        self.last = OutputTransition(dimensions, below, classes, act)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, classes, *space)."""
        skips = [self.first(self.enter(x))]
        for level in self.down:
            skips.append(level(skips[-1]))
        x = skips.pop()
        for level in self.up:
            x = level(x, skips.pop())
        logits: Tensor = self.last(x)
        return logits


def build_vnet(config: VNet, *, dimensions: int, channels: int, classes: int) -> nn.Module:
    """Build the network of a configuration."""
    return ResidualVNet(config, dimensions=dimensions, channels=channels, classes=classes)
