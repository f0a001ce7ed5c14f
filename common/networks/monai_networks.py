"""Networks that MONAI has: configuration in, module out."""

from monai.networks.nets.basic_unet import BasicUNet as MonaiBasicUNet
from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from monai.networks.nets.unet import UNet as MonaiUNet
from torch import nn

from common.networks.dynunet import SupervisedDynUNet
from common.study.backbones import SwinUNETR
from common.study.networks import BasicUNet, DynUNet, UNet

AFFINE_INSTANCE = ("instance", {"affine": True})


def build_unet(config: UNet, *, dimensions: int, channels: int, classes: int) -> nn.Module:
    """Build MONAI's residual U-Net."""
    return MonaiUNet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        channels=config.channels,
        strides=config.strides,
        kernel_size=config.kernel_size,
        up_kernel_size=config.kernel_size,
        num_res_units=config.residual_units,
        dropout=config.dropout,
        norm=AFFINE_INSTANCE,
    )


def build_basic_unet(
    config: BasicUNet, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build MONAI's plain U-Net; activations not in place, so that hooks see both sides."""
    first, *rest = config.features
    return MonaiBasicUNet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        features=(first, *rest),
        dropout=config.dropout,
        norm=AFFINE_INSTANCE,
        act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False}),
    )


def build_dynunet(
    config: DynUNet, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build MONAI's DynUNet; deeply supervised it answers with a list while it trains."""
    levels = len(config.filters)
    network = MonaiDynUNet(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        kernel_size=[config.kernel_size] * levels,
        strides=[1, *config.strides],
        upsample_kernel_size=list(config.strides),
        filters=list(config.filters),
        dropout=config.dropout or None,
        res_block=config.residual,
        norm_name=AFFINE_INSTANCE,
        act_name=("leakyrelu", {"inplace": False, "negative_slope": 0.01}),
    )
    if config.deep_supervision:
        return SupervisedDynUNet(network, config.deep_supervision)
    return network


def build_swin_unetr(
    config: SwinUNETR, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build MONAI's Swin UNETR."""
    return MonaiSwinUNETR(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        feature_size=config.features,
        depths=config.depths,
        window_size=config.window,
        drop_rate=config.dropout,
        norm_name=AFFINE_INSTANCE,
    )
