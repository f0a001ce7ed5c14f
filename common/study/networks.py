"""What a study may say of each network; torch-free, so that the hub can read it.

The builders stand in ``common.networks``; a size that a network cannot take is known here,
because a study is refused before anything is built.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

from common.study.backbones import (
    BCDUNet,
    CoarseToFine,
    DetectThenSegment,
    HDenseUNet,
    KiNet,
    KiUNet,
    MedNeXt,
    SAUNet,
    SliceLSTM,
    SwinUNETR,
    UNetPlusPlus,
    VNet,
)
from common.study.composable import (
    ASPPNonLocalUNet,
    ASPPUNet,
    AttentionUNet,
    CBAMUNet,
    CENet,
    ComposableUNet,
    DenseUNet,
    DepthwiseUNet,
    GLCAUNet,
    GraphUNet,
    HDCUNet,
    InceptionUNet,
    LightHybridUNet,
    Network,
    NonLocalUNet,
    Norm,
    Pseudo3DUNet,
    PSPUNet,
    R2UNet,
    ResidualUNet,
    SCSEUNet,
    SEUNet,
    SurveyUNet,
    UNet3D,
    supervision_problems,
)
from common.study.dints import Dints, DintsSearch
from common.study.transfer import PretrainedUNet


@dataclass(frozen=True, kw_only=True)
class UNet(Network):
    """MONAI's residual U-Net: strided convolutions down, transposed convolutions up.

    Attributes:
        channels: Feature channels of each level, finest first.
        strides: Down-sampling factor between neighbouring levels; one fewer than channels.
        residual_units: Residual units a level; 0 for plain convolutions.
        kernel_size: Kernel of every convolution, voxels, odd.
        dropout: Probability of dropping a channel, 0 to 1.
        norm: Normalisation layer.
    """

    name: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 2)
    residual_units: int = 2
    kernel_size: int = 3
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return prod(self.strides)

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = _common_problems(self.channels, self.kernel_size, self.dropout)
        if len(self.strides) != len(self.channels) - 1:
            found.append(
                (
                    "strides",
                    f"has {len(self.strides)} entries, expected "
                    f"{len(self.channels) - 1}: one fewer than channels",
                )
            )
        if any(stride not in (1, 2, 4) for stride in self.strides):
            found.append(("strides", f"has {list(self.strides)}, expected each 1, 2 or 4"))
        if self.residual_units < 0:
            found.append(("residual_units", f"is {self.residual_units}, expected 0 or more"))
        return found


@dataclass(frozen=True, kw_only=True)
class BasicUNet(Network):
    """MONAI's plain U-Net: two convolutions a level, four poolings, concatenated skips.

    Attributes:
        features: Six numbers: five levels, finest first, then the last up-sampled one.
        dropout: Probability of dropping a channel, 0 to 1.
        norm: Normalisation layer.
    """

    name: Literal["basic_unet"] = "basic_unet"
    features: tuple[int, ...] = (16, 16, 32, 64, 128, 16)
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return 16

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = _common_problems(self.features, 3, self.dropout, field="features")
        if len(self.features) != 6:  # noqa: PLR2004
            found.append(("features", f"has {len(self.features)} entries, expected 6"))
        return found


@dataclass(frozen=True, kw_only=True)
class DynUNet(Network):
    """MONAI's DynUNet, the network of nnU-Net.

    Attributes:
        filters: Feature channels of each level, finest first.
        strides: Down-sampling factor between neighbouring levels; one fewer than filters.
        kernel_size: Kernel of every convolution, voxels, odd.
        residual: Residual blocks in place of plain double convolutions.
        deep_supervision: Coarser levels that answer too while the network is trained, each with
            half the weight of the one above it; nnU-Net has all but the two coarsest answer.
        dropout: Probability of dropping a channel, 0 to 1.
        norm: Normalisation layer.
    """

    name: Literal["dynunet"] = "dynunet"
    filters: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[int, ...] = (2, 2, 2)
    kernel_size: int = 3
    residual: bool = False
    deep_supervision: int = 0
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return prod(self.strides)

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = _common_problems(self.filters, self.kernel_size, self.dropout, field="filters")
        if len(self.filters) < 3:  # noqa: PLR2004
            found.append(("filters", f"has {len(self.filters)} entries, expected 3 or more"))
        if len(self.strides) != len(self.filters) - 1:
            found.append(
                (
                    "strides",
                    f"has {len(self.strides)} entries, expected "
                    f"{len(self.filters) - 1}: one fewer than filters",
                )
            )
        if any(stride not in (1, 2) for stride in self.strides):
            found.append(("strides", f"has {list(self.strides)}, expected each 1 or 2"))
        found += supervision_problems(self.deep_supervision, len(self.filters))
        return found


NetworkConfig = (
    UNet
    | BasicUNet
    | DynUNet
    | ComposableUNet
    | SurveyUNet
    | UNet3D
    | ResidualUNet
    | DenseUNet
    | InceptionUNet
    | DepthwiseUNet
    | R2UNet
    | LightHybridUNet
    | Pseudo3DUNet
    | AttentionUNet
    | SEUNet
    | SCSEUNet
    | CBAMUNet
    | NonLocalUNet
    | GLCAUNet
    | PSPUNet
    | CENet
    | ASPPUNet
    | HDCUNet
    | ASPPNonLocalUNet
    | GraphUNet
    | VNet
    | UNetPlusPlus
    | BCDUNet
    | SliceLSTM
    | CoarseToFine
    | DetectThenSegment
    | KiUNet
    | KiNet
    | HDenseUNet
    | MedNeXt
    | PretrainedUNet
    | Dints
    | DintsSearch
    | SwinUNETR
    | SAUNet
)


def _common_problems(
    channels: tuple[int, ...], kernel_size: int, dropout: float, field: str = "channels"
) -> list[tuple[str, str]]:
    found = []
    if len(channels) < 2:  # noqa: PLR2004
        found.append((field, f"has {len(channels)} entries, expected at least 2"))
    if any(not 1 <= width <= 4096 for width in channels):  # noqa: PLR2004
        found.append((field, f"has {list(channels)}, expected each from 1 to 4096"))
    if kernel_size % 2 == 0 or not 1 <= kernel_size <= 7:  # noqa: PLR2004
        found.append(("kernel_size", f"is {kernel_size}, expected 1, 3, 5 or 7"))
    if not 0 <= dropout < 1:
        found.append(("dropout", f"is {dropout}, expected from 0 to below 1"))
    return found
