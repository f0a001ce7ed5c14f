"""Deep supervision of MONAI's DynUNet, of fewer surprises than MONAI's own.

Source: Isensee et al. nnU-Net. Nature Methods 18, 2021. doi:10.1038/s41592-020-01008-z; MONAI
DynUNet. MONAI enlarges each level's answer to the patch, keeps the last ones as attributes, and
names every array twice.
"""

from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

from common.networks.blocks.parts import Head


class SupervisedDynUNet(nn.Module):
    """A DynUNet whose coarser levels answer too while it trains, the finest first.

    Args:
        network: MONAI's, without deep supervision.
        levels: How many levels answer beside the finest.
    """

    def __init__(self, network: DynUNet, levels: int) -> None:
        super().__init__()
        del network.skip_layers  # the same layers once more
        self.network = network
        self.heads = nn.ModuleList(
            Head(network.spatial_dims, width, network.out_channels, bias=True)
            for width in network.filters[: levels + 1]
        )
        del network.output_block

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, channels, *space) to (B, classes, *space)."""
        network = self.network
        seen = [network.input_block(x)]
        for down in network.downsamples:
            seen.append(down(seen[-1]))
        risen = [network.bottleneck(seen[-1])]
        for up, skip in zip(network.upsamples, reversed(seen), strict=True):
            risen.append(up(risen[-1], skip))
        asked = zip(self.heads, reversed(risen), strict=False)
        if not self.training:
            finest, y = next(asked)
            logits: Tensor = finest(y)
            return logits
        return [head(y) for head, y in asked]
