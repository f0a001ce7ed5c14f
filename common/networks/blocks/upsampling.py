"""How a map is doubled: (B, channels, *space), and where its maxima stood, to (B, out, ...)."""

from monai.networks.blocks.upsample import SubpixelUpsample
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from common.networks.blocks.bottoms import enlarged
from common.networks.blocks.parts import Parts
from common.study.composable import Upsampling


class Deconvolution(nn.Module):
    """A transposed convolution of kernel and stride two (Zeiler et al. 2010)."""

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        self.layer = Conv[Conv.CONVTRANS, parts.dimensions](channels, out, 2, stride=2)

    def forward(self, x: Tensor, _indices: Tensor | None = None) -> Tensor:
        """Double the map."""
        doubled: Tensor = self.layer(x)
        return doubled


class Interpolation(nn.Module):
    """Linear interpolation, then a convolution (Odena 2016, doi:10.23915/distill.00003)."""

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        self.layer = parts.convolution(channels, out)

    def forward(self, x: Tensor, _indices: Tensor | None = None) -> Tensor:
        """Double the map."""
        doubled: Tensor = self.layer(enlarged(x, [2 * side for side in x.shape[2:]]))
        return doubled


class Unpooling(nn.Module):
    """Values put back where the pooling's maxima stood (Badrinarayanan et al. 2015).

    arXiv:1511.00561; a convolution of kernel one brings the channels in line before.
    """

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        self.layer = parts.plain(channels, out)
        self.unpool = (nn.MaxUnpool2d if parts.dimensions == 2 else nn.MaxUnpool3d)(2)  # noqa: PLR2004

    def forward(self, x: Tensor, indices: Tensor | None = None) -> Tensor:
        """Double the map; ``indices`` are those of the pooling that made it."""
        doubled: Tensor = self.unpool(self.layer(x), indices)
        return doubled


class PixelShuffle(nn.Module):
    """Channels rearranged into space (Shi et al. 2016, arXiv:1609.05158)."""

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        self.layer = SubpixelUpsample(
            spatial_dims=parts.dimensions,
            in_channels=channels,
            out_channels=out,
            scale_factor=2,
        )

    def forward(self, x: Tensor, _indices: Tensor | None = None) -> Tensor:
        """Double the map."""
        doubled: Tensor = self.layer(x)
        return doubled


UPSAMPLING: dict[Upsampling, type[nn.Module]] = {
    "deconvolution": Deconvolution,
    "interpolation": Interpolation,
    "unpooling": Unpooling,
    "pixel_shuffle": PixelShuffle,
}
