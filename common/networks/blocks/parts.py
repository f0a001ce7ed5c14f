"""How every part makes its convolutions: dimension, activation and dropout are said once.

Norms are made as instance norms with affine parameters; ``build_network`` then gives each layer
the norm that the study names, and a bank of them where it keeps one per modality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.factories import Act, Conv, Pool
from torch import Tensor, nn

AFFINE_INSTANCE = ("instance", {"affine": True})
# In place, as a map less is kept for the backward pass; what needs both sides switches it off.
ACTIVATIONS: dict[str, Any] = {
    "leaky_relu": ("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
    "relu": ("relu", {"inplace": True}),
    "prelu": "prelu",
    "elu": ("elu", {"inplace": True}),
    "gelu": "gelu",
}


class AttentionMap(nn.Identity):
    """Marks weights between 0 and 1 as a map that a person may look at; passes them on.

    (B, 1 or C, *space) or (B, heads, queries, keys); see :mod:`client.explain`.
    """


class Head(nn.Module):
    """A last convolution, one output channel a class.

    Attributes:
        convolution: Of kernel 1; a federation averages each class's part by itself.
    """

    def __init__(self, dimensions: int, channels: int, classes: int, *, bias: bool) -> None:
        super().__init__()
        self.convolution = Conv[Conv.CONV, dimensions](channels, classes, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) to (B, classes, *space)."""
        logits: Tensor = self.convolution(x)
        return logits


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Makes convolutions of one dimension.

    Attributes:
        dimensions: 2 or 3.
        activation: Name in ``ACTIVATIONS``.
        dropout: Probability of dropping a channel.
    """

    dimensions: int
    activation: str = "leaky_relu"
    dropout: float = 0.0

    def convolution(  # noqa: PLR0913
        self,
        channels: int,
        out: int,
        kernel: int | Sequence[int] = 3,
        *,
        dilation: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
    ) -> nn.Module:
        """Return a convolution that keeps the size, then norm, dropout and activation."""
        if not norm and not act:
            return self.plain(channels, out, kernel, dilation=dilation, groups=groups)
        layer: nn.Module = Convolution(
            spatial_dims=self.dimensions, in_channels=channels, out_channels=out,
            kernel_size=kernel, dilation=dilation, groups=groups, bias=not norm,
            norm=AFFINE_INSTANCE if norm else None,
            act=ACTIVATIONS[self.activation] if act else None,
            dropout=self.dropout or None, dropout_dim=self.dimensions,
        )  # fmt: skip
        return layer

    def twice(self, channels: int, out: int) -> nn.Module:
        """Return two such convolutions of kernel 3, one after the other."""
        return nn.Sequential(self.convolution(channels, out), self.convolution(out, out))

    def plain(
        self,
        channels: int,
        out: int,
        kernel: int | Sequence[int] = 1,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> nn.Module:
        """Return a convolution alone that keeps the size."""
        sides = [kernel] * self.dimensions if isinstance(kernel, int) else list(kernel)
        padding = tuple(side // 2 * dilation for side in sides)
        layer: nn.Module = Conv[Conv.CONV, self.dimensions](
            channels, out, tuple(sides), padding=padding, dilation=dilation, groups=groups,
            bias=bias,
        )  # fmt: skip
        return layer

    def norm(self, channels: int) -> nn.Module:
        """Return a norm alone."""
        layer = nn.InstanceNorm2d if self.dimensions == 2 else nn.InstanceNorm3d  # noqa: PLR2004
        return layer(channels, affine=True)

    def act(self) -> nn.Module:
        """Return an activation alone."""
        name = ACTIVATIONS[self.activation]
        kind, options = (name, {}) if isinstance(name, str) else name
        layer: nn.Module = Act[kind](**options)
        return layer

    def max_pool(self, *, indices: bool = False) -> nn.Module:
        """Return a pooling that halves the map."""
        layer: nn.Module = Pool[Pool.MAX, self.dimensions](2, return_indices=indices)
        return layer
