"""A study: all that is trained, as frozen values. It contains no code.

Plain dataclasses; ``common.study.load`` alone turns YAML into them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from common.study.losses import DiceCrossEntropy, LossConfig
from common.study.methods import FedAvg, MethodConfig
from common.study.networks import NetworkConfig, UNet
from common.study.schemes import SchemeConfig, Supervised

BACKGROUND = "background"
Over = Literal["network", "loss", "both"]
_OPEN: dict[str, tuple[str, ...]] = {
    "network": ("network",),
    "loss": ("loss",),
    "both": ("network", "loss"),
}


@dataclass(frozen=True, kw_only=True)
class Label:
    """One structure of the vocabulary.

    Attributes:
        name: As profiles and reports name it.
        side: ``left`` or ``right`` for a lateral structure; then no flip may swap sides.
    """

    name: str
    side: Literal["none", "left", "right"] = "none"


@dataclass(frozen=True, kw_only=True)
class Modality:
    """How images of one modality become network input.

    Attributes:
        intensity: ``hounsfield``: clipped to ``window``, then z-scored with statistics of the
            labelled voxels pooled over all sites; ``arbitrary``: z-scored image by image over
            its own foreground.
        window: Lowest and highest value kept, in the image's own unit (HU in CT).
    """

    intensity: Literal["hounsfield", "arbitrary"]
    window: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a training patch; 0 switches one off.

    Attributes:
        probability: Chance of each change, 0 to 1.
        rotation_degrees: Largest rotation about each axis, degrees.
        scale: Largest relative change of size, e.g. 0.1 for 10 %.
        shift: Largest additive change of intensity, standard deviations.
        contrast: Largest relative change of contrast.
        noise: Largest standard deviation of added Gaussian noise.
        gamma: Largest change of the exponent of a gamma curve.
        flip_axes: Axes that may be flipped: 0 left-right, 1 back-front, 2 foot-head.
    """

    probability: float = 0.3
    rotation_degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.1
    contrast: float = 0.1
    noise: float = 0.05
    gamma: float = 0.2
    flip_axes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Training:
    """Local training in each round.

    Attributes:
        steps: Optimiser steps a round; 0 to count ``epochs`` instead.
        epochs: Passes over the site's training cases a round, where ``steps`` is 0.
        batch: Patches a step.
        patch: Size of a patch, voxels, one number an axis.
        optimizer: ``adamw`` or ``sgd`` (momentum 0.99, Nesterov).
        learning_rate: At the start of the schedule.
        weight_decay: Of the optimiser.
        schedule: ``polynomial`` (exponent 0.9), ``cosine`` or ``constant`` over all rounds.
        keep_optimizer: Whether the optimiser's state outlives the round at its site.
        gradient_clip: Largest L2 norm of the gradient; 0 for none.
        foreground: Share of patches centred on a labelled voxel, 0 to 1.
        mixed_precision: Automatic mixed precision on a GPU; a CPU ignores it.
        scheme: What is learnt beside the loss.
    """

    steps: int = 50
    epochs: int = 0
    batch: int = 2
    patch: tuple[int, ...] = (64, 64, 64)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    schedule: Literal["polynomial", "cosine", "constant"] = "polynomial"
    keep_optimizer: bool = True
    gradient_clip: float = 12.0
    foreground: float = 0.67
    mixed_precision: bool = True
    scheme: SchemeConfig = field(default_factory=Supervised)


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Rounds, and what a round needs to count.

    Attributes:
        rounds: How many.
        method: The federated method.
        minimum_sites: Fewest accepted updates for a round to close.
        minimum_sites_per_modality: The same within each modality of the study.
        balance_modalities: Every modality weighs the same in the average of shared
            parameters; else every case does.
        answer_seconds: Longest silence. In a simulation it starts anew with each answer; at a
            hub with each step or byte that the site reports, and a site that is known to be
            quicker is given less (three times its slowest recent round, at least a minute).
        retries: How often a round below quorum is tried again before the run pauses; a
            simulation does not try again.
        late: What becomes of an update that comes after the hub gave it up: ``refuse``, or
            ``fold`` it into the round under way with the weight of its cases divided by the
            square root of 1 + rounds that passed (arXiv:1903.03934, section 5.2, a = 0.5).
        largest_norm_ratio: An update whose L2 norm is above this many times the round's
            median within its modality is refused; 0 switches the check off.
    """

    rounds: int = 20
    method: MethodConfig = field(default_factory=FedAvg)
    minimum_sites: int = 1
    minimum_sites_per_modality: int = 1
    balance_modalities: bool = True
    answer_seconds: float = 3600.0
    retries: int = 2
    late: Literal["refuse", "fold"] = "refuse"
    largest_norm_ratio: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What of the network is shared with whom.

    Attributes:
        norm: ``per_modality``: one set of normalisation layers a modality, averaged over the
            sites that have it (FedNorm, arXiv:2205.11096); ``everything``: one set, averaged
            over all (FedAvg); ``statistics_local``: running statistics stay at the site
            (SiloBN, arXiv:2008.07424); ``local``: all normalisation stays (FedBN,
            arXiv:2102.07623).
    """

    norm: Literal["per_modality", "everything", "statistics_local", "local"] = "per_modality"


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Knowledge distilled across modalities through class affinities.

    Attributes:
        weight: Factor of the symmetric KL at the end of the ramp; 0 switches it off.
        temperature: Of the softmax over the mean logits of a class.
        ramp_rounds: Rounds over which the factor grows linearly from 0.
    """

    weight: float = 0.5
    temperature: float = 2.0
    ramp_rounds: int = 5


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Which cases are held out, and what is measured when.

    Attributes:
        validation: Share of people kept for choosing the best round.
        test: Share of people kept for the final figures.
        every: Rounds between validations; the last round is always validated.
        overlap: Overlap of neighbouring windows on a whole volume, 0 to 0.9.
        local: Also train, at each site, the model that it would have had alone.
    """

    validation: float = 0.15
    test: float = 0.2
    every: int = 1
    overlap: float = 0.5
    local: bool = True


@dataclass(frozen=True, kw_only=True)
class SearchTerms:
    """What a site agrees to that approves a search once instead of each of its trials.

    Attributes:
        over: What may differ from trial to trial; all else is as approved.
        trials: Most federations that are trained, each for the study's rounds.
    """

    over: Over = "network"
    trials: int = 20


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that is trained, from vocabulary to seeds.

    Attributes:
        name: A short name for people; the hash names it for machines.
        dimensions: 2 for images of one slice, 3 for volumes.
        labels: The vocabulary; label 0 is the background and is not listed.
        modalities: Preprocessing by modality.
        channels: Image channels of a case, the same in all modalities.
        spacing_mm: Voxel spacing that all images are resampled to; none keeps their own.
        network: The network and its parameters.
        loss: The loss.
        training: Local training.
        augmentation: Random changes of training patches.
        federation: Rounds and the federated method.
        sharing: What is shared with whom.
        distillation: Knowledge across modalities.
        evaluation: Held-out cases and measurements.
        seed: Of everything random.
        search: Of a study that is one trial of a search at a hub, which ``fedseg hub search``
            writes here; none for a study of its own.
    """

    name: str
    labels: tuple[Label, ...]
    modalities: dict[str, Modality]
    dimensions: Literal[2, 3] = 3
    channels: int = 1
    spacing_mm: tuple[float, ...] | None = None
    network: NetworkConfig = field(default_factory=UNet)
    loss: LossConfig = field(default_factory=DiceCrossEntropy)
    training: Training = field(default_factory=Training)
    augmentation: Augmentation = field(default_factory=Augmentation)
    federation: Federation = field(default_factory=Federation)
    sharing: Sharing = field(default_factory=Sharing)
    distillation: Distillation = field(default_factory=Distillation)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 1
    search: SearchTerms | None = None

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the structures; the label of index i in a map is i + 1."""
        return tuple(label.name for label in self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """The background and the structures, in the order of the network's channels."""
        return (BACKGROUND, *self.label_names)

    @property
    def has_sides(self) -> bool:
        """Whether any label is lateral, so that no left-right flip is allowed."""
        return any(label.side != "none" for label in self.labels)


def canonical_json(study: Study) -> str:
    """Return the one JSON text of a study, defaults written out, keys sorted."""
    return _canonical(as_plain(study))


def as_plain(study: Study) -> dict[str, Any]:
    """Return the study as nested dictionaries, lists and scalars."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(study), allow_nan=False))
    return plain


def study_hash(study: Study) -> str:
    """Return the SHA-256 of the canonical JSON, hexadecimal: what names a study."""
    return _hash_of(canonical_json(study))


def approval_hash(study: Study) -> str:
    """Return the hash that a site approves.

    It is the study's own, but for a trial of a search: there it is that of everything except
    what the search may choose, so that one approval holds for all its trials and for nothing
    else.
    """
    if study.search is None:
        return study_hash(study)
    plain = as_plain(study)
    for part in _OPEN[study.search.over]:
        plain[part] = None
    return _hash_of(_canonical(plain))


def _canonical(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
