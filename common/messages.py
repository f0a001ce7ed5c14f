"""What hub and site say to each other, as frozen values.

The complete list of what leaves a site: names of study and site, counts of cases by class and
by reason of skipping, parameters of the study's kinds, class affinities, metrics by label, sums
of intensities, times, bytes, and error codes with a fixed sentence.
"""

import re
from dataclasses import dataclass, field

from common.tensors import Weights

# a site's name becomes the name of a file at the hub
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """Cases of one modality at one site: declared = usable + skipped.

    Attributes:
        declared: Cases in the site's datasets.
        usable: Cases that can be read and have a label map.
        skipped: Cases set aside, by reason.
        train: Usable cases that train.
        validation: Usable cases that choose the best round.
        test: Usable cases kept for the final figures.
    """

    declared: int
    usable: int
    skipped: dict[str, int]
    train: int
    validation: int
    test: int


@dataclass(frozen=True, kw_only=True)
class IntensityTotals:
    """Sums over the labelled voxels of one channel, never voxels.

    Attributes:
        count: Voxels.
        total: Sum of their intensities.
        squares: Sum of the squares.
    """

    count: int
    total: float
    squares: float


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """A site's answer to "who are you?".

    Attributes:
        site: Its name.
        study: Hash of the study that it read.
        accounting: Cases by modality.
        annotated: Labels of the study that it annotates.
        totals: Intensity sums by modality, one a channel; only where the study pools them.
        version: Of fedseg.
    """

    site: str
    study: str
    accounting: dict[str, Accounting]
    annotated: tuple[str, ...]
    totals: dict[str, tuple[IntensityTotals, ...]]
    version: str


@dataclass(frozen=True, kw_only=True)
class ClassAffinity:
    """Logits summed by true class, and how many voxels of each: C x C sums, C counts."""

    sums: tuple[tuple[float, ...], ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one label.

    Attributes:
        modality: Of the cases.
        label: Its name.
        metric: What was measured.
        value: The mean over the cases that have it.
        cases: How many those are.
    """

    modality: str
    label: str
    metric: str
    value: float
    cases: int


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every job says first.

    Attributes:
        run: Identifier of the run.
        study: The study's canonical JSON.
        round: Counted from 1; 0 before the first.
    """

    run: str
    study: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """What the hub pooled over sites.

    Attributes:
        statistics: Mean and standard deviation of intensities by modality, one pair a channel.
        affinities: Class affinity of each modality in the round before.
    """

    statistics: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    affinities: dict[str, ClassAffinity] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One round's work for a site.

    Attributes:
        context: Run, study, round.
        pooled: What the hub pooled.
        validate: Whether to score the weights that came, before training on.
        kinds: Kind of each parameter, as the hub holds it.
        weights: The parameters that this site uses.
    """

    context: Context
    pooled: Pooled
    validate: bool
    kinds: dict[str, str]
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """What a site tells of its round, beside the weights.

    Attributes:
        site: Its name.
        run: Of the job.
        study: Hash of the job's study.
        round: Of the job.
        cases: Training cases by modality: the weights of the average.
        used: Training cases that were drawn at least once, by modality.
        skipped: Cases set aside since the start, by modality and reason.
        declared: Cases in the site's datasets, by modality:
            declared = used + skipped + not needed.
        not_needed: Usable cases that were held out, or not drawn in this round, by modality.
        steps: Optimiser steps done.
        loss: Mean training loss.
        seconds: Time for training / for validation.
        scores: Of the weights that came, if they were to be validated.
        affinities: Class affinities of this round's training, by modality.
    """

    site: str
    run: str
    study: str
    round: int
    cases: dict[str, int]
    used: dict[str, int]
    skipped: dict[str, dict[str, int]]
    steps: int
    loss: float
    seconds: dict[str, float]
    scores: tuple[Score, ...]
    affinities: dict[str, ClassAffinity]
    declared: dict[str, int] = field(default_factory=dict)
    not_needed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Update:
    """A site's answer to a :class:`TrainJob`."""

    report: UpdateReport
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Score one set of weights on held-out cases.

    Attributes:
        context: Run, study; ``round`` is the round that the weights closed.
        pooled: What the hub pooled.
        part: ``validation`` (Dice alone), ``test`` (every metric, and the model trained alone
            as well) or ``matrix`` (Dice alone, on the test cases).
        kinds: Kind of each parameter, as the hub holds it.
        weights: The parameters that this site uses.
    """

    context: Context
    pooled: Pooled
    part: str
    kinds: dict[str, str]
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Federated minus alone, paired by case.

    Attributes:
        modality: Of the cases.
        label: Its name, or ``mean`` over labels.
        mean: Mean difference of Dice.
        low: Lower end of the 95 % bootstrap interval over cases.
        high: Upper end.
        cases: How many pairs.
    """

    modality: str
    label: str
    mean: float
    low: float
    high: float
    cases: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A site's answer to an :class:`EvaluateJob`.

    Attributes:
        site: Its name.
        round: Round of the weights.
        federated: Scores of the weights that came.
        alone: Scores of the model that the site trained alone, where it has one.
        differences: Federated minus alone.
        skipped: Cases set aside since the start, by modality and reason.
        seconds: Time it took.
    """

    site: str
    round: int
    federated: tuple[Score, ...]
    alone: tuple[Score, ...]
    differences: tuple[Difference, ...]
    skipped: dict[str, dict[str, int]]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class AloneJob:
    """Train, from the initial weights, the model that the site would have had alone."""

    context: Context
    pooled: Pooled
    kinds: dict[str, str]
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class AloneReport:
    """That it was trained: steps, seconds, the best round by the site's own validation."""

    site: str
    steps: int
    best_round: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ShareJob:
    """Hand out the model that the site trained alone, to be scored at other sites."""

    context: Context


@dataclass(frozen=True, kw_only=True)
class SharedModel:
    """The best weights that a site trained alone, those of its own modalities."""

    site: str
    weights: Weights


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a site has no answer: a code and a fixed sentence, never a path or a name."""

    code: str
    sentence: str
