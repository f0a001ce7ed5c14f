"""Convolutional LSTMs over a sequence of maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.blocks.parts import Parts


class ConvLSTM(nn.Module):
    """i, f, o = sigma(C [x, h]), g = tanh(C [x, h]); c = f c + i g; h = o tanh(c).

    Shi et al. 2015, arXiv:1506.04214, equation 3, without its peepholes.
    """

    def __init__(self, parts: Parts, channels: int, hidden: int) -> None:
        super().__init__()
        self.gates, self.hidden = parts.plain(channels + hidden, 4 * hidden, 3), hidden

    def forward(self, sequence: Sequence[Tensor]) -> list[Tensor]:
        """Each (B, channels, *space); the states h, (B, hidden, *space), in the same order."""
        first = sequence[0]
        h = c = first.new_zeros(first.shape[0], self.hidden, *first.shape[2:])
        states = []
        for x in sequence:
            i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return states


class BidirectionalConvLSTM(nn.Module):
    """A convolutional LSTM in each direction, each with half of the channels.

    Attributes:
        out: Channels of both directions together.
    """

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        half = max(out // 2, 1)
        self.there, self.back = ConvLSTM(parts, channels, half), ConvLSTM(parts, channels, half)
        self.out = 2 * half

    def forward(self, sequence: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the states of both directions, each in the order of the sequence."""
        return self.there(sequence), self.back(sequence[::-1])[::-1]
