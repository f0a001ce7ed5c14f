"""U-Net++ and its pruning; see :class:`common.study.backbones.UNetPlusPlus`.

Source: Zhou et al. UNet++. IEEE TMI 39(6), 2020. arXiv:1912.05074 (nested skips, deep
supervision, pruning); MONAI BasicUNetPlusPlus. MONAI computes all four depths and answers with
all of them; here a network has only the nodes that its answers need. The paper weighs depths
equally; here each has half the weight of the next deeper one, as levels have elsewhere.
"""

import copy
from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from torch import Tensor, nn

from common.errors import InputError
from common.networks.blocks.parts import AFFINE_INSTANCE, Head
from common.study.backbones import UNetPlusPlus

DEPTH = 4


class NestedUNet(nn.Module):
    """The nodes X^{i,k} of MONAI's network with i + k at most the deepest answer.

    While it trains it answers with a list, the deepest first; then with the deepest alone.

    Attributes:
        answers: Depths that answer, the deepest first.
    """

    def __init__(self, network: BasicUNetPlusPlus, answers: Sequence[int]) -> None:
        super().__init__()
        self.network, self.answers = network, tuple(sorted(answers, reverse=True))
        needed = {"final_conv_0_" + str(depth) for depth in answers}
        for i in range(max(answers) + 1):
            needed |= {_node(i, k) for k in range(max(answers) + 1 - i)}
        for name, _ in list(network.named_children()):
            if name not in needed:
                delattr(network, name)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, channels, *space) to (B, classes, *space)."""
        rows: list[list[Tensor]] = []
        for i in range(max(self.answers) + 1):
            rows.append([self._call(_node(i, 0), rows[-1][0] if rows else x)])
            for k in range(1, i + 1):
                # X^{i-k,k} from what stands below it and all to its left
                left = rows[i - k]
                skip = left[0] if k == 1 else torch.cat(left, 1)
                left.append(self._call(_node(i - k, k), rows[i - k + 1][k - 1], skip))
        asked = self.answers if self.training else self.answers[:1]
        logits = [self._call(f"final_conv_0_{depth}", rows[0][depth]) for depth in asked]
        return logits if len(logits) > 1 else logits[0]

    def _call(self, name: str, *maps: Tensor) -> Tensor:
        answer: Tensor = getattr(self.network, name)(*maps)
        return answer


def _node(i: int, k: int) -> str:
    return f"upcat_{i}_{k}" if k else f"conv_{i}_0"


def prune(network: NestedUNet, depth: int) -> NestedUNet:
    """Return the part of a network that one of its answers needs; the network stays as it is.

    It answers bit for bit what the network's head of that depth does, with fewer parameters.

    Args:
        network: Trained with deep supervision, so that every depth has a head.
        depth: 1 to 4 halvings.

    Raises:
        InputError: If the network has no head at this depth.
    """
    if depth not in network.answers:
        has = ", ".join(map(str, sorted(network.answers)))
        raise InputError(f"the network has no head at depth {depth}, expected one of: {has}")
    return NestedUNet(copy.deepcopy(network.network), (depth,))


def build_unet_plus_plus(
    config: UNetPlusPlus, *, dimensions: int, channels: int, classes: int
) -> nn.Module:
    """Build the network of a configuration; activations not in place, as in the plain U-Net."""
    network = BasicUNetPlusPlus(
        spatial_dims=dimensions,
        in_channels=channels,
        out_channels=classes,
        features=config.features,
        dropout=config.dropout,
        norm=AFFINE_INSTANCE,
        act=("LeakyReLU", {"negative_slope": 0.1, "inplace": False}),
    )
    for depth in range(1, DEPTH + 1):
        width = config.features[5] if depth == DEPTH else config.features[0]
        head = Head(dimensions, width, classes, bias=True)
        setattr(network, f"final_conv_0_{depth}", head)
    answers = range(1, DEPTH + 1) if config.deep_supervision else (DEPTH,)
    return NestedUNet(network, tuple(answers))
