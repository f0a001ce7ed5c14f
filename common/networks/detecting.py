"""A small network finds the structures, another one segments the region around them.

See :class:`common.study.backbones.DetectThenSegment`. Cascades of this kind resize the volume,
take the bounding box of what was found and hand it on outside the network; here the box has a
fixed size, so that boxes of several images make one batch and nothing is resized, and both
networks learn in one step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.blocks.bottoms import enlarged
from common.networks.composable import Composed
from common.study.backbones import DetectThenSegment
from common.study.composable import ComposableUNet


class Detecting(nn.Module):
    """Logits of a segmenter within one box an image, up-sampled ones of a locator elsewhere.

    The box is cut out at a place that has no gradient; the segmenter's input, image and the
    locator's logits, has one. While it trains it answers with a list: the logits, then the
    locator's own, each side of which is smaller by the factor.
    """

    def __init__(
        self, config: DetectThenSegment, *, dimensions: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        small, large = (
            ComposableUNet(widths=widths, dropout=config.dropout)
            for widths in (config.locator, config.widths)
        )
        sizes = {"dimensions": dimensions, "classes": classes}
        self.locator: nn.Module = Composed(small, channels=channels, **sizes)
        self.segmenter: nn.Module = Composed(large, channels=channels + classes, **sizes)
        self._factor, self._box_of = config.factor, config.box

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, channels, *space) to (B, classes, *space)."""
        sides = x.shape[2:]
        found = self.locator(enlarged(x, [side // self._factor for side in sides]))
        rough = enlarged(found, sides)
        box = [self._box_of(side) for side in sides]
        index = voxels(corners(found, sides, box), box, sides)
        seen = torch.cat([x, rough.to(x.dtype)], 1)
        fine = self.segmenter(cut(seen, index, box))
        logits = paste(rough, index, fine)
        return [logits, found] if self.training else logits


def corners(logits: Tensor, sides: Sequence[int], box: Sequence[int]) -> Tensor:
    """Return the first voxel of each image's box, (B, axes), whole numbers.

    The box stands around c = sum_v p_v v / sum_v p_v, p the probability of all classes but the
    background, and is moved into the image where it would leave it. Where p is 0 everywhere it
    stands in the middle.

    Args:
        logits: (B, classes, *space), the space of any size; gets no gradient.
        sides: Of the image, voxels.
        box: Sides of the box, voxels, at most those of the image.
    """
    weights = logits.detach().float().softmax(1)[:, 1:].sum(1)
    weights = weights + torch.finfo(weights.dtype).tiny  # 0 everywhere has no centre
    found = []
    for axis, (side, length) in enumerate(zip(sides, box, strict=True)):
        others = [i + 1 for i in range(len(box)) if i != axis]
        along = weights.sum(others)
        step = side / along.shape[1]
        middles = (torch.arange(along.shape[1], device=along.device) + 0.5) * step
        centre = (along * middles).sum(1) / along.sum(1)
        found.append((centre - length / 2).round().long().clamp(0, side - length))
    return torch.stack(found, 1)


def voxels(corner: Tensor, box: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Number the voxels of each box in its image's flat order, (B, 1, voxels of the box)."""
    samples = corner.shape[0]
    index = corner.new_zeros(samples)
    for axis, (side, length) in enumerate(zip(sides, box, strict=True)):
        along = corner[:, axis, None] + torch.arange(length, device=corner.device)
        index = index[..., None] * side + along.reshape(samples, *[1] * axis, length)
    return index.reshape(samples, 1, -1)


def cut(x: Tensor, index: Tensor, box: Sequence[int]) -> Tensor:
    """(B, C, *space) to (B, C, *box): the numbered voxels."""
    taken = x.flatten(2).gather(2, index.expand(-1, x.shape[1], -1))
    return taken.reshape(*x.shape[:2], *box)


def paste(x: Tensor, index: Tensor, piece: Tensor) -> Tensor:
    """(B, C, *space) in and out: the numbered voxels are those of the piece."""
    flat, values = x.flatten(2), piece.flatten(2).to(x.dtype)
    return flat.scatter(2, index.expand_as(values), values).reshape(x.shape)


def build_detect_then_segment(
    config: DetectThenSegment, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the network of a configuration."""
    return Detecting(config, dimensions=dimensions, channels=channels, classes=classes)
