"""What a study may say of the networks that are no choice of a U-Net's parts; torch-free."""

from dataclasses import dataclass
from typing import Literal

from common.study.composable import LARGEST_WIDTH, MOST_LEVELS, Network, Norm

Problems = list[tuple[str, str]]
MednextSize = Literal["S", "B", "M", "L"]


def width_problems(field: str, widths: tuple[int, ...], *, least: int, most: int) -> Problems:
    """Tell of a list of feature channels that has too few, too many or impossible entries."""
    found = []
    if not least <= len(widths) <= most:
        expected = f"{least}" if least == most else f"{least} to {most}"
        found.append((field, f"has {len(widths)} entries, expected {expected}"))
    if any(not 1 <= width <= LARGEST_WIDTH for width in widths):
        what = f"has {list(widths)[:9]}, expected each from 1 to {LARGEST_WIDTH}"
        found.append((field, what))
    return found


def range_problems(field: str, value: float, low: float, high: float) -> Problems:
    """Tell of a number outside its range."""
    if low <= value <= high:
        return []
    return [(field, f"is {value}, expected {low} to {high}")]


def dropout_problems(dropout: float) -> Problems:
    """Tell of a dropout that is no probability below 1."""
    if 0 <= dropout < 1:
        return []
    return [("dropout", f"is {dropout}, expected from 0 to below 1")]


@dataclass(frozen=True, kw_only=True)
class Pyramid(Network):
    """Levels, each of half the sides of the one before; not a network by itself."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return int(2 ** (len(self.widths) - 1))

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        widths = width_problems("widths", self.widths, least=2, most=MOST_LEVELS)
        return [*widths, *dropout_problems(self.dropout)]


@dataclass(frozen=True, kw_only=True)
class VNet(Network):
    """V-Net: residual levels of 5-voxel kernels, four halvings by strided convolutions.

    At the paper's width it has 45.6 million parameters in 3-D, 182 MB a round and site.

    Attributes:
        width: Feature channels of the finest level, 1 to 64; each coarser one has twice as
            many, the coarsest sixteen times as many. The paper has 16.
        dropout: Probability of dropping a channel on the way down, in the two coarsest levels,
            and of a skip; 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["vnet"] = "vnet"
    width: int = 16
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return 16

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        return [*range_problems("width", self.width, 1, 64), *dropout_problems(self.dropout)]


@dataclass(frozen=True, kw_only=True)
class UNetPlusPlus(Network):
    """U-Net++: nested skips, a U-Net of every depth from one to four in one network.

    With deep supervision each of the four depths has a head at full resolution and can be cut
    out after training (pruning); a shallower one has half the weight of the next deeper one.

    Attributes:
        features: Six numbers: five levels, finest first, then the last up-sampled one.
        deep_supervision: Whether all four depths answer while the network is trained.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["unet_plus_plus"] = "unet_plus_plus"
    features: tuple[int, ...] = (16, 16, 32, 64, 128, 16)
    deep_supervision: bool = True
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return 16

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = width_problems("features", self.features, least=6, most=6)
        if any(width == 1 for width in self.features[2:5]):
            what = (
                f"has {list(self.features)[:9]}, expected 2 or more from the third to the fifth"
            )
            found.append(("features", f"{what}: up-sampling halves them"))
        return [*found, *dropout_problems(self.dropout)]


@dataclass(frozen=True, kw_only=True)
class BCDUNet(Pyramid):
    """BCDU-Net: skips and up-sampled maps joined by a bidirectional convolutional LSTM.

    Attributes:
        widths: Feature channels of each level, finest first; 2 to 8 levels.
        dense: Blocks at the bottom, each of which sees all before it; 1 to 8.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["bcdu_net"] = "bcdu_net"
    dense: int = 3

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        return [*super().problems(), *range_problems("dense", self.dense, 1, 8)]


@dataclass(frozen=True, kw_only=True)
class SliceLSTM(Pyramid):
    """A 2-D U-Net whose coarsest maps are read along the slices by a convolutional LSTM.

    The slice axis is the last; it is never halved.

    Attributes:
        widths: Feature channels of each level, finest first; 2 to 8 levels.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer; its statistics are those of a slice.
    """

    name: Literal["slice_lstm"] = "slice_lstm"

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Dimensions in which the network exists: slices make a volume."""
        return (3,)


@dataclass(frozen=True, kw_only=True)
class CoarseToFine(Pyramid):
    """Cascade of two U-Nets: the second sees the image and what the first thinks of it.

    Both answer while the network is trained, the first with half the weight of the second.

    Attributes:
        widths: Feature channels of each level of both, finest first; 2 to 8 levels.
        coarse: How much smaller the sides are that the first one sees: 1 for the same, or 2.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["coarse_to_fine"] = "coarse_to_fine"
    coarse: int = 1

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return int(2 ** (len(self.widths) - 1)) * max(self.coarse, 1)

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = super().problems()
        if self.coarse not in (1, 2):
            found.append(("coarse", f"is {self.coarse}, expected 1 or 2"))
        return found


@dataclass(frozen=True, kw_only=True)
class DetectThenSegment(Pyramid):
    """Cascade of detection and segmentation: a small U-Net finds, a larger one looks there.

    The locator sees the patch reduced; the segmenter sees, at full resolution, one box of it
    around the middle of what the locator takes for foreground, and the locator's logits there.
    Outside the box the locator answers. Both are trained together, the locator with half the
    weight of the whole. For structures that fill less of a patch than the box: a structure that
    leaves the box is as coarse there as the locator is.

    Attributes:
        widths: Feature channels of each level of the segmenter, finest first; 2 to 8 levels.
        locator: Feature channels of each level of the locator, finest first; 2 to 8 levels.
        factor: How many times smaller the sides are that the locator sees: 1, 2, 4 or 8.
        region: Side of the box as a share of the patch's, 0.1 to 1; rounded to what the
            segmenter can take, and at least twice that. At 1 the box is all of the patch.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["detect_then_segment"] = "detect_then_segment"
    locator: tuple[int, ...] = (8, 16, 32)
    factor: int = 4
    region: float = 0.5

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return max(self.factor * int(2 ** (len(self.locator) - 1)), self._step)

    @property
    def _step(self) -> int:
        return int(2 ** (len(self.widths) - 1))

    def box(self, side: int) -> int:
        """Return the side of the box in a patch of this side, voxels."""
        nearest = round(self.region * side / self._step) * self._step
        return min(max(nearest, 2 * self._step), side)

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = super().problems()
        found += width_problems("locator", self.locator, least=2, most=MOST_LEVELS)
        if self.factor not in (1, 2, 4, 8):
            found.append(("factor", f"is {self.factor}, expected 1, 2, 4 or 8"))
        return [*found, *range_problems("region", self.region, 0.1, 1.0)]


@dataclass(frozen=True, kw_only=True)
class OverComplete(Network):
    """What Ki-Net and KiU-Net have in common; not a network by itself."""

    widths: tuple[int, ...] = (8, 16, 32)
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return int(2 ** len(self.widths))

    def largest_side(self, dimensions: int) -> int:
        """Return the largest side of a patch: the enlarged maps must fit into memory."""
        patch, enlarged = {2: (128, 1024), 3: (32, 128)}[dimensions]
        return min(patch, int(enlarged // 2 ** len(self.widths)))

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        widths = width_problems("widths", self.widths, least=1, most=3)
        return [*widths, *dropout_problems(self.dropout)]


@dataclass(frozen=True, kw_only=True)
class KiNet(OverComplete):
    """Ki-Net: over-complete, its maps are doubled where a U-Net halves them.

    For small structures in small patches: with three stages, sides of 128 in 2-D and 16 in 3-D
    at most; with two, 128 and 32.

    Attributes:
        widths: Feature channels of each doubling; 1 to 3 stages.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["ki_net"] = "ki_net"


@dataclass(frozen=True, kw_only=True)
class KiUNet(OverComplete):
    """KiU-Net: a U-Net and a Ki-Net side by side that tell each other after each stage.

    For small structures in small patches: with three stages, sides of 128 in 2-D and 16 in 3-D
    at most; with two, 128 and 32.

    Attributes:
        widths: Feature channels of each stage of both; 1 to 3 stages.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["kiu_net"] = "kiu_net"


@dataclass(frozen=True, kw_only=True)
class HDenseUNet(Pyramid):
    """H-DenseUNet: a 2-D dense U-Net over slices, a 3-D one over volumes, their features fused.

    The slice axis is the last. The fused and the 2-D answer are trained together, the latter
    with half the weight.

    Attributes:
        widths: Feature channels of each level of both, finest first; 2 to 8 levels.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer; in the 2-D part its statistics are those of a slice.
    """

    name: Literal["h_dense_unet"] = "h_dense_unet"

    @property
    def dimensions(self) -> tuple[int, ...]:
        """Dimensions in which the network exists: slices make a volume."""
        return (3,)


@dataclass(frozen=True, kw_only=True)
class MedNeXt(Network):
    """MedNeXt: depthwise convolutions of large kernels, inverted bottlenecks, four halvings.

    Attributes:
        size: Of the paper's four; S has 5.6, B 10.5, M 17.5, L 61.7 million parameters in 3-D.
        filters: Feature channels of the finest level, 1 to 128; doubled at each coarser one.
        kernel_size: Kernel of the depthwise convolutions, voxels: 3, 5 or 7.
        deep_supervision: Whether the four coarser levels answer too while the network is
            trained, each with half the weight of the one above it.
        norm: Normalisation layer; the paper's, one group a channel, is ``instance``.
    """

    name: Literal["mednext"] = "mednext"
    size: MednextSize = "S"
    filters: int = 32
    kernel_size: int = 3
    deep_supervision: bool = True
    norm: Norm = "instance"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return 16

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = range_problems("filters", self.filters, 1, 128)
        if self.kernel_size not in (3, 5, 7):
            found.append(("kernel_size", f"is {self.kernel_size}, expected 3, 5 or 7"))
        return found


@dataclass(frozen=True, kw_only=True)
class SwinUNETR(Network):
    """Swin UNETR: a transformer over shifted windows with a convolutional decoder.

    Attributes:
        features: Channels of the finest tokens, a multiple of 12, 12 to 192.
        depths: Transformer blocks of each of the four stages, 1 to 24 each.
        window: Sides of the attention's windows, tokens, 2 to 16.
        dropout: Probability of dropping a token's value, 0 to below 1.
        norm: Normalisation layer of the convolutions; the transformer keeps its layer norms,
            of which there is also one per modality.
    """

    name: Literal["swin_unetr"] = "swin_unetr"
    features: int = 24
    depths: tuple[int, ...] = (2, 2, 2, 2)
    window: int = 7
    dropout: float = 0.0
    norm: Norm = "instance"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return 32

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = range_problems("window", self.window, 2, 16)
        if self.features % 12 or not 12 <= self.features <= 192:  # noqa: PLR2004
            what = f"is {self.features}, expected a multiple of 12 from 12 to 192"
            found.append(("features", what))
        if len(self.depths) != 4 or any(not 1 <= depth <= 24 for depth in self.depths):  # noqa: PLR2004
            what = f"has {list(self.depths)[:9]}, expected four numbers from 1 to 24"
            found.append(("depths", what))
        return [*found, *dropout_problems(self.dropout)]


@dataclass(frozen=True, kw_only=True)
class SAUNet(Pyramid):
    """SAUNet: a stream of shape beside a U-Net whose decoder shows what it attends to.

    Attributes:
        widths: Feature channels of each level, finest first; 3 to 8 levels.
        edge_weight: Of the cross entropy of the edges that the stream draws, beside the study's
            loss, 0 to 100; only cases whose every label is annotated count for it.
        dropout: Probability of dropping a channel, 0 to below 1.
        norm: Normalisation layer.
    """

    name: Literal["sa_unet"] = "sa_unet"
    edge_weight: float = 1.0

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        edges = range_problems("edge_weight", self.edge_weight, 0.0, 100.0)
        widths = width_problems("widths", self.widths, least=3, most=MOST_LEVELS)
        return [*edges, *widths, *dropout_problems(self.dropout)]
