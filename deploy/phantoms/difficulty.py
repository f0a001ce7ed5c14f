"""How hard a set of phantoms is to segment, as three named settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

DifficultyName = Literal["easy", "default", "hard"]


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """What makes one set of phantoms harder than another.

    Attributes:
        noise: Factor on the noise of both modalities.
        bias: Factor on the strength of the MR bias field.
        distractors: Fewest and most distractor blobs of a 2-D image; a volume gets
            twice as many.
        mimics: Whether distractors may also be made of an organ's substance, so that only
            place and shape tell them apart.
        organ_scale: Factor on the radii of the organs.
    """

    noise: float
    bias: float
    distractors: tuple[int, int]
    mimics: bool
    organ_scale: float


DIFFICULTIES: Mapping[DifficultyName, Difficulty] = {
    "easy": Difficulty(noise=0.5, bias=0.4, distractors=(1, 2), mimics=False, organ_scale=1.12),
    "default": Difficulty(
        noise=1.0, bias=1.0, distractors=(3, 5), mimics=False, organ_scale=1.0
    ),
    "hard": Difficulty(noise=1.4, bias=1.4, distractors=(6, 9), mimics=True, organ_scale=1.0),
}

DIFFICULTY_NAMES: tuple[str, ...] = get_args(DifficultyName)
