"""A U-Net whose encoder can start from weights of natural images.

See :class:`common.study.transfer.PretrainedUNet`.

Source: Iglovikov and Shvets. TernausNet. 2018. arXiv:1801.05746 (a U-Net on a classifier's
encoder); MONAI FlexibleUNet. Carreira and Zisserman. Quo Vadis, Action Recognition? CVPR 2017.
arXiv:1705.07750, section 2.4 (inflation). MONAI's ResNet-18 and -34 have shortcuts without
weights, through which no gradient passes; here they have those that He et al. 2016
(arXiv:1512.03385, option B) and torchvision have, or its weights would mean nothing.
"""

from collections.abc import Mapping

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets.flexible_unet import FlexibleUNet
from monai.networks.nets.resnet import ResNetEncoder
from torch import Tensor, nn

from common.errors import InputError
from common.networks.blocks.parts import AFFINE_INSTANCE, Parts
from common.study.transfer import PretrainedUNet

FIRST = "conv1.weight"
STATISTICS, COUNTER = ("running_mean", "running_var"), "num_batches_tracked"
FLAT_KERNEL, SOLID_KERNEL = 4, 5  # axes of a convolution's weight


class TransferUNet(nn.Module):
    """MONAI's FlexibleUNet with shortcuts that have weights.

    Attributes:
        encoder: A ResNet whose names are torchvision's.
    """

    def __init__(
        self, config: PretrainedUNet, *, dimensions: int, channels: int, classes: int
    ) -> None:
        super().__init__()
        unet = FlexibleUNet(
            in_channels=channels,
            out_channels=classes,
            backbone=config.encoder,
            pretrained=False,  # True downloads
            decoder_channels=config.decoder,
            spatial_dims=dimensions,
            norm=AFFINE_INSTANCE,
            act=("relu", {"inplace": False}),
            dropout=config.dropout,
            is_pad=False,
        )
        self.encoder: ResNetEncoder = unet.encoder
        self.decoder, self.head = unet.decoder, unet.segmentation_head[0]
        self._skips = unet.skip_connect
        parts = Parts(dimensions=dimensions)
        for layer in (self.encoder.layer2, self.encoder.layer3, self.encoder.layer4):
            block = layer[0]
            if not isinstance(block.downsample, nn.Module):
                block.downsample = _shortcut(parts, block.conv1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, classes, *space)."""
        logits: Tensor = self.head(self.decoder(self.encoder(x), self._skips))
        return logits


def _shortcut(parts: Parts, like: nn.Module) -> nn.Module:
    """Return a convolution of kernel 1 and a norm, with channels and stride of another."""
    ends = {"in_channels": like.in_channels, "out_channels": like.out_channels}
    layer = Conv[Conv.CONV, parts.dimensions](
        **ends, kernel_size=1, stride=like.stride, bias=False
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, parts.norm(layer.out_channels))


def encoder_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of an encoder that may learn at its own rate; of most, none."""
    return list(network.encoder.parameters()) if isinstance(network, TransferUNet) else []


# --- weights of a 2-D classifier -------------------------------------------------------------


def take_encoder(encoder: nn.Module, given: Mapping[str, Tensor]) -> str:
    """Put a 2-D classifier's weights into an encoder, all of them or none.

    Args:
        encoder: Of a :class:`TransferUNet` that has its norms, but no banks yet.
        given: State dict of a ResNet, names as torchvision's; the last layer, counters, and
            statistics that the encoder's norm does not keep may be there and are not used.

    Returns:
        How many were taken, for people.

    Raises:
        InputError: Naming the first tensor that is missing, is of no use, or does not fit.
    """
    own = {n: t for n, t in encoder.state_dict().items() if not n.endswith(COUNTER)}
    missing = [name for name in own if name not in given]
    if missing:
        raise InputError(f"{missing[0]}: is missing, with {len(missing) - 1} other tensors")
    left = [name for name in given if name not in own]
    strange = [name for name in left if not _is_left_out(name, own)]
    if strange:
        raise InputError(f"{strange[0]}: is not of this encoder, nor {len(strange) - 1} others")
    fitted = {name: _fitted(name, given[name], tensor) for name, tensor in own.items()}
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(fitted[name])
    return (
        f"{len(fitted)} of {len(own)} encoder tensors taken; {len(left)} of the file not used"
    )


def _is_left_out(name: str, own: Mapping[str, Tensor]) -> bool:
    """Whether a classifier has this tensor and its encoder has no place for it."""
    layer, _, leaf = name.rpartition(".")
    of_a_norm = leaf in (*STATISTICS, COUNTER) and f"{layer}.bias" in own
    return layer == "fc" or of_a_norm


def _fitted(name: str, given: Tensor, like: Tensor) -> Tensor:
    found = given.double()
    if name == FIRST and given.ndim == FLAT_KERNEL:
        found = averaged(found, like.shape[1])
    if given.ndim == FLAT_KERNEL and like.ndim == SOLID_KERNEL:
        found = inflated(found)
    if found.shape != like.shape:
        has, expected = tuple(given.shape), tuple(like.shape)
        raise InputError(f"{name}: has shape {has}, which does not become {expected}")
    if not bool(torch.isfinite(found).all()):
        raise InputError(f"{name}: holds NaN or infinity")
    return found.to(like.dtype)


def averaged(kernel: Tensor, channels: int) -> Tensor:
    """(O, C, h, w) to (O, channels, h, w): the mean over the C colours, times C / channels.

    A grey picture g answers sum_c W_c * g = C (mean W) * g. An image of n channels that all
    show g answers the same if each has C / n times the mean, so that what follows, statistics
    of a batch norm above all, fits; for one channel that is the sum over the colours.
    """
    colours = kernel.shape[1]
    mean = kernel.mean(1, keepdim=True)
    return mean.repeat(1, channels, 1, 1) * (colours / channels)


def inflated(kernel: Tensor) -> Tensor:
    """(O, C, h, k) to (O, C, h, k, k): repeated k times along a new last axis, divided by k.

    A volume that does not change along the new axis answers as its slice did, but for the
    zeros beyond its ends. Carreira and Zisserman 2017, arXiv:1705.07750, section 2.4.
    """
    depth = kernel.shape[-1]
    return kernel[..., None].repeat(1, 1, 1, 1, depth) / depth


def build_pretrained_unet(
    config: PretrainedUNet, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the network of a configuration; its weights come from the seed."""
    return TransferUNet(config, dimensions=dimensions, channels=channels, classes=classes)
