"""The U-Net put together from parts; see :class:`common.study.composable.ComposableUNet`."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from common.networks.blocks.attention import ATTENTION
from common.networks.blocks.bottoms import (
    ASPP,
    BottomOf,
    GraphReasoning,
    HybridDilation,
    NonLocal,
    PyramidPooling,
    aspp_nonlocal,
    dac_rmp,
)
from common.networks.blocks.convolutions import BLOCKS
from common.networks.blocks.cross_attention import GlobalLocalCrossAttention
from common.networks.blocks.parts import Head, Parts
from common.networks.blocks.upsampling import UPSAMPLING
from common.study.composable import ComposableUNet

BOTTOMS: dict[str, BottomOf] = {
    "nonlocal": NonLocal,
    "psp": PyramidPooling,
    "dac_rmp": dac_rmp,
    "aspp": ASPP,
    "hdc": HybridDilation,
    "aspp_nonlocal": aspp_nonlocal,
    "graph": GraphReasoning,
    "glca": GlobalLocalCrossAttention,
}
SLOPE = 0.01


class Composed(nn.Module):
    """A U-Net of chosen parts.

    Answers with logits; while it trains with deep supervision, with a list of them, the finest
    first, each of half the sides of the one before.
    """

    def __init__(
        self, config: ComposableUNet, *, dimensions: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        parts = Parts(
            dimensions=dimensions, activation=config.activation, dropout=config.dropout
        )
        block, widths = BLOCKS[config.block], config.widths
        self.down = nn.ModuleList(
            block(parts, config, a, b) for a, b in pairwise((channels, *widths))
        )
        self.keeps_places = config.upsampling == "unpooling"
        self.pool = parts.max_pool(indices=self.keeps_places)
        bottom = BOTTOMS.get(config.bottom)
        self.bottom = bottom(parts, config, widths[-1]) if bottom else nn.Identity()
        up, attention = UPSAMPLING[config.upsampling], ATTENTION.get(config.attention)
        self.up, self.join, self.attention = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(widths):
            risen = coarse if config.doubling else fine
            self.up.append(up(parts, coarse, risen))
            self.join.append(block(parts, config, fine + risen, fine))
            if attention is not None:
                self.attention.append(attention(parts, fine, coarse))
        self.heads = nn.ModuleList(
            Head(dimensions, width, classes, bias=config.head_bias)
            for width in widths[: config.deep_supervision + 1]
        )
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, channels, *space) to (B, classes, *space)."""
        answering = len(self.heads) if self.training else 1
        maps = self.maps(x)[:answering]
        answers = [head(seen) for head, seen in zip(self.heads, maps, strict=False)]
        return answers if len(answers) > 1 else answers[0]

    def maps(self, x: Tensor) -> list[Tensor]:
        """(B, channels, *space) to what the heads see of each level, the finest first."""
        skips: list[Tensor] = []
        places: list[Tensor | None] = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x, where = self.pool(x) if self.keeps_places else (self.pool(x), None)
            places.append(where)
        x = self.bottom(self.down[-1](x))
        found: list[Tensor] = []
        for i in reversed(range(len(skips))):
            risen = self.up[i](x, places[i])
            skip = self.attention[i](skips[i], x) if len(self.attention) else skips[i]
            x = self.join[i](torch.cat([skip, risen], 1))
            found.append(x)
        return found[::-1]


def build_composable(
    config: ComposableUNet, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the network of a configuration."""
    return Composed(config, dimensions=dimensions, channels=channels, classes=classes)


def _initialise(module: nn.Module) -> None:
    """Draw weights as He et al. 2015 (arXiv:1502.01852) do; biases begin at 0."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    if isinstance(module, kinds):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
