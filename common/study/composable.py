"""One U-Net whose parts are chosen, and the named networks that are a choice of them.

A row of the survey that differs from a U-Net by its block, its attention or what stands at the
bottom is a configuration of :class:`ComposableUNet`; torch-free, so that the hub can read it.
"""

from dataclasses import dataclass
from typing import Literal

Norm = Literal["group", "batch", "instance", "layer"]
Block = Literal[
    "plain", "residual", "dense", "inception", "depthwise", "recurrent", "separable", "pseudo3d"
]
Attention = Literal["none", "gate", "se", "scse", "cbam"]
Bottom = Literal[
    "block", "nonlocal", "psp", "dac_rmp", "aspp", "hdc", "aspp_nonlocal", "graph", "glca"
]
Upsampling = Literal["deconvolution", "interpolation", "unpooling", "pixel_shuffle"]
Activation = Literal["leaky_relu", "relu", "prelu", "elu", "gelu"]

VOLUME_BLOCKS = ("separable", "pseudo3d")
LARGEST_RATE = 64
LARGEST_WIDTH, MOST_LEVELS = 4096, 8
LARGEST_SIDE = 4096  # voxels of a patch


class Network:
    """What every network's configuration has beside its fields."""

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Dimensions in which the network exists."""
        return (2, 3)

    def largest_side(self, dimensions: int) -> int:  # noqa: ARG002
        """Return the largest side of a patch, voxels, in 2 or 3 dimensions."""
        return LARGEST_SIDE

    def encoder_factor(self, number: int) -> float:  # noqa: ARG002
        """Return the factor of the encoder's learning rate in a round, counted from 1."""
        return 1.0

    def path_factor(self, number: int) -> float:  # noqa: ARG002
        """Return the factor of the learning rate of what a search moves, in a round from 1."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class ComposableUNet(Network):
    """A U-Net of two or three dimensions, put together from parts.

    Each level is a block; the map is halved by max-pooling between levels on the way down, and
    doubled on the way up, where it is joined with the map of the same size.

    Attributes:
        widths: Feature channels of each level, finest first; 2 to 8 levels.
        block: What a level is made of.
        convolutions: Convolutions of a ``plain`` block, recurrent layers of a ``recurrent``
            one; other blocks have their own number.
        attention: What weighs the finer map before it is joined.
        bottom: What follows the coarsest level's block; ``block`` for nothing more.
        rates: Dilation rates of the bottom ``hdc``.
        upsampling: How a map is doubled.
        doubling: Whether a level's channels grow in the second convolution only, and
            up-sampling keeps them (3D U-Net); for ``plain`` blocks of two.
        deep_supervision: Coarser levels that answer too while the network is trained, each with
            half the weight of the one above it.
        activation: After each convolution.
        head_bias: Whether the last convolution has a bias.
        dropout: Probability of dropping a channel in a block, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["composable_unet"] = "composable_unet"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    block: Block = "plain"
    convolutions: int = 2
    attention: Attention = "none"
    bottom: Bottom = "block"
    rates: tuple[int, ...] = (1, 2, 5, 1, 2, 5)
    upsampling: Upsampling = "deconvolution"
    doubling: bool = False
    deep_supervision: int = 0
    activation: Activation = "leaky_relu"
    head_bias: bool = True
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Dimensions in which the network exists: some blocks tell depth from the plane."""
        return (3,) if self.block in VOLUME_BLOCKS else (2, 3)

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return int(2 ** (len(self.widths) - 1))

    def problems(self) -> list[tuple[str, str]]:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = []
        levels = len(self.widths)
        if not 2 <= levels <= MOST_LEVELS:  # noqa: PLR2004
            found.append(("widths", f"has {levels} entries, expected 2 to {MOST_LEVELS}"))
        if any(not 1 <= width <= LARGEST_WIDTH for width in self.widths):
            what = f"has {list(self.widths)[:9]}, expected each from 1 to {LARGEST_WIDTH}"
            found.append(("widths", what))
        if not 1 <= self.convolutions <= 8:  # noqa: PLR2004
            found.append(("convolutions", f"is {self.convolutions}, expected 1 to 8"))
        if self.doubling and (self.block != "plain" or self.convolutions != 2):  # noqa: PLR2004
            found.append(("doubling", "goes with plain blocks of two convolutions only"))
        if self.doubling and self.upsampling == "unpooling":
            found.append(
                ("upsampling", "unpooling cannot keep the channels that doubling asks")
            )
        if what := holes(self.rates):
            found.append(("rates", what))
        found += supervision_problems(self.deep_supervision, levels)
        if not 0 <= self.dropout < 1:
            found.append(("dropout", f"is {self.dropout}, expected from 0 to below 1"))
        return found


def supervision_problems(answers: int, levels: int) -> list[tuple[str, str]]:
    """Return what is wrong with a number of coarser levels that answer too."""
    if 0 <= answers < max(levels - 1, 1):
        return []
    most = max(levels - 2, 0)
    what = f"is {answers}, expected 0 to {most}: fewer than the levels on the way up"
    return [("deep_supervision", what)]


def holes(rates: tuple[int, ...], kernel: int = 3) -> str:
    """Say which dilation rates leave places unseen; nothing if none do.

    Wang et al. 2018, arXiv:1702.08502, equation 2: within a tooth of the saw, which begins at
    1, the largest distance between seen places,
    M_i = max(M_{i+1} - 2 r_i, 2 r_i - M_{i+1}, r_i), must not be above the kernel at its second
    layer.
    """
    if not rates or any(not 1 <= rate <= LARGEST_RATE for rate in rates):
        return f"has {list(rates)[:9]}, expected each from 1 to {LARGEST_RATE}"
    teeth: list[list[int]] = [[]]
    for rate in rates:
        if teeth[-1] and rate < teeth[-1][-1]:
            teeth.append([])
        teeth[-1].append(rate)
    for tooth in teeth:
        distance = tooth[-1]
        for rate in reversed(tooth[1:-1]):
            distance = max(distance - 2 * rate, 2 * rate - distance, rate)
        if tooth[0] != 1 or distance > kernel:
            return f"has {tooth}, which leaves places unseen; (1, 2, 5) leaves none"
    return ""


# --- rows of the survey that are a choice of parts -------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SurveyUNet(ComposableUNet):
    """The survey's U-Net baseline as listed: five levels, bilinear up-sampling, no biases."""

    name: Literal["survey_unet"] = "survey_unet"  # type: ignore[assignment]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    upsampling: Upsampling = "interpolation"
    activation: Activation = "relu"
    head_bias: bool = False
    norm: Norm = "batch"


@dataclass(frozen=True, kw_only=True)
class UNet3D(ComposableUNet):
    """3D U-Net: three poolings, channels doubled before each."""

    name: Literal["unet_3d"] = "unet_3d"  # type: ignore[assignment]
    widths: tuple[int, ...] = (32, 64, 128, 256)
    doubling: bool = True
    activation: Activation = "relu"
    norm: Norm = "batch"


@dataclass(frozen=True, kw_only=True)
class ResidualUNet(ComposableUNet):
    """U-Net of residual blocks."""

    name: Literal["residual_unet"] = "residual_unet"  # type: ignore[assignment]
    block: Block = "residual"


@dataclass(frozen=True, kw_only=True)
class DenseUNet(ComposableUNet):
    """U-Net whose every block is densely connected."""

    name: Literal["dense_unet"] = "dense_unet"  # type: ignore[assignment]
    block: Block = "dense"


@dataclass(frozen=True, kw_only=True)
class InceptionUNet(ComposableUNet):
    """U-Net of Inception blocks: kernels of several sizes side by side."""

    name: Literal["inception_unet"] = "inception_unet"  # type: ignore[assignment]
    block: Block = "inception"


@dataclass(frozen=True, kw_only=True)
class DepthwiseUNet(ComposableUNet):
    """U-Net of depthwise separable convolutions."""

    name: Literal["depthwise_unet"] = "depthwise_unet"  # type: ignore[assignment]
    block: Block = "depthwise"


@dataclass(frozen=True, kw_only=True)
class R2UNet(ComposableUNet):
    """R2U-Net: recurrent residual convolutions, two steps each."""

    name: Literal["r2unet"] = "r2unet"  # type: ignore[assignment]
    block: Block = "recurrent"


@dataclass(frozen=True, kw_only=True)
class LightHybridUNet(ComposableUNet):
    """Light hybrid network: every 3-D convolution separated along depth and by channel."""

    name: Literal["light_hybrid"] = "light_hybrid"  # type: ignore[assignment]
    block: Block = "separable"


@dataclass(frozen=True, kw_only=True)
class Pseudo3DUNet(ComposableUNet):
    """Pseudo-3D U-Net: a convolution within slices, then one across them."""

    name: Literal["pseudo_3d"] = "pseudo_3d"  # type: ignore[assignment]
    block: Block = "pseudo3d"


@dataclass(frozen=True, kw_only=True)
class AttentionUNet(ComposableUNet):
    """Attention U-Net: skips gated by the coarser map, deeply supervised."""

    name: Literal["attention_unet"] = "attention_unet"  # type: ignore[assignment]
    attention: Attention = "gate"
    deep_supervision: int = 1


@dataclass(frozen=True, kw_only=True)
class SEUNet(ComposableUNet):
    """U-Net whose skips are weighed by channel: squeeze and excitation."""

    name: Literal["se_unet"] = "se_unet"  # type: ignore[assignment]
    attention: Attention = "se"


@dataclass(frozen=True, kw_only=True)
class SCSEUNet(ComposableUNet):
    """U-Net whose skips are weighed by channel and by place: concurrent scSE."""

    name: Literal["scse_unet"] = "scse_unet"  # type: ignore[assignment]
    attention: Attention = "scse"


@dataclass(frozen=True, kw_only=True)
class CBAMUNet(ComposableUNet):
    """U-Net whose skips are weighed by channel, then by place: CBAM."""

    name: Literal["cbam_unet"] = "cbam_unet"  # type: ignore[assignment]
    attention: Attention = "cbam"


@dataclass(frozen=True, kw_only=True)
class NonLocalUNet(ComposableUNet):
    """U-Net with self-attention over all places of the coarsest map."""

    name: Literal["nonlocal_unet"] = "nonlocal_unet"  # type: ignore[assignment]
    block: Block = "residual"
    bottom: Bottom = "nonlocal"


@dataclass(frozen=True, kw_only=True)
class GLCAUNet(ComposableUNet):
    """U-Net with global-local cross attention at the bottom."""

    name: Literal["glca_unet"] = "glca_unet"  # type: ignore[assignment]
    bottom: Bottom = "glca"


@dataclass(frozen=True, kw_only=True)
class PSPUNet(ComposableUNet):
    """U-Net with pyramid pooling at the bottom."""

    name: Literal["psp_unet"] = "psp_unet"  # type: ignore[assignment]
    bottom: Bottom = "psp"


@dataclass(frozen=True, kw_only=True)
class CENet(ComposableUNet):
    """CE-Net: dense atrous convolution and residual multi-kernel pooling at the bottom."""

    name: Literal["ce_net"] = "ce_net"  # type: ignore[assignment]
    block: Block = "residual"
    bottom: Bottom = "dac_rmp"


@dataclass(frozen=True, kw_only=True)
class ASPPUNet(ComposableUNet):
    """U-Net with atrous spatial pyramid pooling at the bottom."""

    name: Literal["aspp_unet"] = "aspp_unet"  # type: ignore[assignment]
    bottom: Bottom = "aspp"


@dataclass(frozen=True, kw_only=True)
class HDCUNet(ComposableUNet):
    """U-Net with hybrid dilated convolutions at the bottom, rates in a saw-tooth."""

    name: Literal["hdc_unet"] = "hdc_unet"  # type: ignore[assignment]
    bottom: Bottom = "hdc"


@dataclass(frozen=True, kw_only=True)
class ASPPNonLocalUNet(ComposableUNet):
    """U-Net with atrous pyramid pooling and then self-attention at the bottom."""

    name: Literal["aspp_nonlocal_unet"] = "aspp_nonlocal_unet"  # type: ignore[assignment]
    bottom: Bottom = "aspp_nonlocal"


@dataclass(frozen=True, kw_only=True)
class GraphUNet(ComposableUNet):
    """U-Net that reasons over a small graph of regions at the bottom."""

    name: Literal["graph_unet"] = "graph_unet"  # type: ignore[assignment]
    bottom: Bottom = "graph"
