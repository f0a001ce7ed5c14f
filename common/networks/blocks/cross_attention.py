"""Global-local cross attention: what matters most asks everything else."""

from math import ceil, sqrt

import torch
from torch import Tensor, nn

from common.networks.blocks.parts import AttentionMap, Parts
from common.study.composable import ComposableUNet

LAYERS, SHARE = 2, 0.1  # of self-attention before it; of the places that ask


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V added to the tokens; the weights are returned too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, width) to the same and (B, N, N)."""
        q, k, v = self.project(self.norm(tokens)).chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / sqrt(q.shape[-1])).softmax(-1)
        return tokens + self.leave(weights @ v), weights


class GlobalLocalCrossAttention(nn.Module):
    """The tenth of the places that attention rates highest, each asking all places.

    Zhu et al. 2022 (dual cross-attention learning), arXiv:2205.02151, equations 1 to 3:
    attention is rolled out over the layers, S = S_l ... S_1 with S_i halfway to the identity;
    the class token's row rates the places. Added with a factor that begins at 0.
    """

    def __init__(self, _parts: Parts, _config: ComposableUNet, channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, channels))
        self.layers = nn.ModuleList(SelfAttention(channels) for _ in range(LAYERS))
        self.project, self.leave = (
            nn.Linear(channels, 3 * channels),
            nn.Linear(channels, channels),
        )
        self.gamma, self.map = nn.Parameter(torch.zeros(1)), AttentionMap()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *space) in and out."""
        places = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), places], 1)
        rolled = torch.eye(tokens.shape[1], device=x.device, dtype=x.dtype).expand(
            len(x), -1, -1
        )
        for layer in self.layers:
            tokens, weights = layer(tokens)
            rolled = 0.5 * (weights @ rolled + rolled)
        rated = self.map(rolled[:, :1, 1:])[:, 0]
        most = max(ceil(SHARE * rated.shape[1]), 1)
        chosen = rated.topk(most, dim=1).indices[..., None].expand(-1, -1, x.shape[1])
        q, k, v = self.project(tokens).chunk(3, -1)
        asking = q[:, 1:].gather(1, chosen)
        seen = (asking @ k.transpose(1, 2) / sqrt(q.shape[-1])).softmax(-1) @ v
        local = tokens[:, 1:].scatter_add(1, chosen, self.leave(seen).to(tokens.dtype))
        answer: Tensor = x + self.gamma * local.transpose(1, 2).reshape(x.shape)
        return answer
