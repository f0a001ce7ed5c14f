"""Two networks, the second of which sees what the first thinks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.networks.blocks.bottoms import enlarged
from common.networks.blocks.parts import Head, Parts
from common.networks.composable import Composed
from common.networks.recurrent import slices_of, volume_of
from common.study.backbones import CoarseToFine, HDenseUNet
from common.study.composable import ComposableUNet


class Cascade(nn.Module):
    """Logits of a fine U-Net on [x, softmax(coarse(x))].

    Christ et al. 2016, arXiv:1610.02177 (one network after another); Tu and Bai 2010, IEEE
    TPAMI 32(10), doi:10.1109/TPAMI.2009.186 (posteriors as the next one's input).
    While it trains it answers with a list: the fine logits, then the coarse ones.
    """

    def __init__(
        self, config: CoarseToFine, *, dimensions: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        inner = ComposableUNet(widths=config.widths, dropout=config.dropout)
        sizes = {"dimensions": dimensions, "classes": classes}
        self.coarse = Composed(inner, channels=channels, **sizes)
        self.fine = Composed(inner, channels=channels + classes, **sizes)
        self._factor = config.coarse

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, channels, *space) to (B, classes, *space)."""
        sides = x.shape[2:]
        seen = enlarged(x, [side // self._factor for side in sides])
        coarse = self.coarse(seen if self._factor > 1 else x)
        thought = coarse.softmax(1)
        thought = enlarged(thought, sides) if self._factor > 1 else thought
        fine: Tensor = self.fine(torch.cat([x, thought], 1))
        return [fine, coarse] if self.training else fine


class HybridDense(nn.Module):
    """Features of a 2-D network over slices and of a 3-D one over the volume, fused.

    Li et al. 2018, arXiv:1709.07330: slices are cut, each with both neighbours;
    the 3-D network sees the volume and the 2-D posteriors; Z = X_3d + C(X_2d). The paper's 2-D
    part is a pretrained network of 167 layers and is trained first; here both learn together,
    from scratch, and the 3-D part has no head of its own. Slices stand along the last axis.
    While it trains it answers with a list: the fused logits, then those of the 2-D part.
    """

    def __init__(self, config: HDenseUNet, *, channels: int, classes: int) -> None:
        super().__init__()
        inner = ComposableUNet(widths=config.widths, block="dense", dropout=config.dropout)
        self.flat = Composed(inner, dimensions=2, channels=3 * channels, classes=classes)
        self.deep = Composed(inner, dimensions=3, channels=channels + classes, classes=classes)
        self.deep.heads = nn.ModuleList()
        width, parts = config.widths[0], Parts(dimensions=3, dropout=config.dropout)
        self.align, self.fuse = parts.plain(width, width), parts.convolution(width, width)
        self.head = Head(3, width, classes, bias=True)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, channels, H, W, D) to (B, classes, H, W, D)."""
        samples = x.shape[0]
        flat = self.flat.maps(slices_of(with_neighbours(x)))[0]
        answer = volume_of(self.flat.heads[0](flat), samples)
        deep = self.deep.maps(torch.cat([x, answer.softmax(1)], 1))[0]
        fused = self.fuse(deep + self.align(volume_of(flat, samples)))
        logits: Tensor = self.head(fused)
        return [logits, answer] if self.training else logits


def with_neighbours(x: Tensor) -> Tensor:
    """(B, C, H, W, D) to (B, 3 C, H, W, D): the slice before, each slice, the one after it.

    The first and last slice are their own neighbours.
    """
    padded = functional.pad(x, (1, 1, 0, 0, 0, 0), mode="replicate")
    return torch.cat([padded[..., :-2], x, padded[..., 2:]], 1)


def build_coarse_to_fine(
    config: CoarseToFine, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the network of a configuration."""
    return Cascade(config, dimensions=dimensions, channels=channels, classes=classes)


def build_h_dense_unet(
    config: HDenseUNet,
    *,
    dimensions: int,  # noqa: ARG001 # always 3
    channels: int,
    classes: int,
) -> nn.Module:
    """Build the network of a configuration."""
    return HybridDense(config, channels=channels, classes=classes)
