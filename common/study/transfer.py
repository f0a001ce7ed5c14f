"""What a study may say of a U-Net whose encoder was trained before; torch-free."""

import re
from dataclasses import dataclass
from typing import Literal

from common.study.backbones import Problems, dropout_problems, range_problems, width_problems
from common.study.composable import Network, Norm

Encoder = Literal["resnet10", "resnet18", "resnet34"]
SHA256 = re.compile(r"[0-9a-f]{64}")
DECODER_LEVELS = 5


@dataclass(frozen=True, kw_only=True)
class PretrainedUNet(Network):
    """U-Net with a residual encoder that can start from weights of natural images.

    Nothing is downloaded. Where ``weights_sha256`` is given, whoever builds the initial weights
    names the file (``--encoder-weights``); sites get the weights from the hub as ever and need
    no file. It holds the state dict of a 2-D ResNet in torchvision's names; for volumes its
    kernels are inflated, for other than three channels the first one is averaged over colours.

    Of the file's batch norms, scale and shift are taken whatever the ``norm``; the means and
    variances with ``batch`` alone. What ``sharing.norm`` keeps at the sites starts there as any
    norm does, and not from the file.

    Attributes:
        encoder: In 2-D 4.9, 11.2 and 21.3 million parameters, in 3-D 14.4, 33.2 and 63.5. The
            file of one does not fit another.
        weights_sha256: SHA-256 of the encoder's file, 64 hexadecimal digits in lower case;
            empty for an encoder that starts from the seed.
        encoder_rate: Factor of the learning rate of the encoder, 0 to 1; 0.1 keeps more of what
            it knows.
        frozen_rounds: Rounds, from the first, in which the encoder's parameters stay what they
            are, 0 to 100000; running statistics of a ``batch`` norm move all the same.
        decoder: Feature channels of the decoder's five levels, coarsest first.
        dropout: Probability of dropping a channel of the decoder, 0 to below 1.
        norm: Normalisation layer, in the encoder too.
    """

    name: Literal["pretrained_unet"] = "pretrained_unet"
    encoder: Encoder = "resnet18"
    weights_sha256: str = ""
    encoder_rate: float = 1.0
    frozen_rounds: int = 0
    decoder: tuple[int, ...] = (256, 128, 64, 32, 16)
    dropout: float = 0.0
    norm: Norm = "group"

    @property
    def divisor(self) -> int:
        """Every side of a patch must be a multiple of this, and at least twice it."""
        return 32

    def encoder_factor(self, number: int) -> float:
        """Return the factor of the encoder's learning rate in a round, counted from 1."""
        return self.encoder_rate if number > self.frozen_rounds else 0.0

    def problems(self) -> Problems:
        """Return (field, what is wrong) for combinations that cannot be built."""
        found = width_problems(
            "decoder", self.decoder, least=DECODER_LEVELS, most=DECODER_LEVELS
        )
        if self.weights_sha256 and not SHA256.fullmatch(self.weights_sha256):
            what = f"is {self.weights_sha256[:80]!r}, expected 64 of 0-9 and a-f, or nothing"
            found.append(("weights_sha256", what))
        found += range_problems("encoder_rate", self.encoder_rate, 0.0, 1.0)
        found += range_problems("frozen_rounds", self.frozen_rounds, 0, 100_000)
        return [*found, *dropout_problems(self.dropout)]
