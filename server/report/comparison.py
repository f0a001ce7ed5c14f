"""Federated beside alone: the two models of each site, label by label, worst first."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from common.messages import Difference, Evaluation, Score
from common.study.study import Study

MEAN = "mean"
FEWEST_CASES = 6  # below, an interval over cases says little and the page says so


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Means of one model over held-out cases.

    Attributes:
        cases: Cases that could be scored.
        structures: Structures in them: cases times labels.
        dice: Overlap, 0 to 1.
        missed: Structures of the reference that the model did not find.
        hd95_mm: 95th percentile Hausdorff distance.
        assd_mm: Average symmetric surface distance.
        volume_difference: Signed, relative to the reference.
        voe: Volumetric overlap error, 0 to 1.
    """

    cases: int = 0
    structures: int = 0
    dice: float = math.nan
    missed: float = math.nan
    hd95_mm: float = math.nan
    assd_mm: float = math.nan
    volume_difference: float = math.nan
    voe: float = math.nan


MEASURES = ("dice", "hd95_mm", "assd_mm", "volume_difference", "voe")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Federated beside alone, for one label or the mean over labels."""

    label: str
    federated: Measures
    alone: Measures
    difference: Difference | None

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``no clear difference`` or ``not compared``."""
        found = self.difference
        if found is None or not all(map(math.isfinite, (found.mean, found.low, found.high))):
            return "not compared"
        if found.cases > 1 and found.low > 0:
            return "better"
        if found.cases > 1 and found.high < 0:
            return "worse"
        return "no clear difference"

    @property
    def is_thin(self) -> bool:
        """Whether the interval stands on too few cases to carry a conclusion."""
        return self.difference is not None and self.difference.cases < FEWEST_CASES


@dataclass(frozen=True, kw_only=True)
class SiteComparison:
    """One site and modality: the mean over labels, and its labels, worst first."""

    site: str
    modality: str
    mean: Comparison
    labels: tuple[Comparison, ...]


def compare(final: Mapping[str, Evaluation], study: Study) -> tuple[SiteComparison, ...]:
    """Put the two models side by side: sites and labels by their difference, worst first."""
    found = []
    for site, evaluation in final.items():
        for modality in sorted(_modalities(evaluation)):
            rows = [_comparison(evaluation, modality, name) for name in study.label_names]
            held = [r for r in rows if r.federated.cases or r.alone.cases or r.difference]
            mean = Comparison(
                label=MEAN,
                federated=_mean_of([r.federated for r in held]),
                alone=_mean_of([r.alone for r in held]),
                difference=_difference(evaluation, modality, MEAN),
            )
            labels = tuple(sorted(held, key=_worst))
            found.append(SiteComparison(site=site, modality=modality, mean=mean, labels=labels))
    return tuple(sorted(found, key=lambda c: (_worst(c.mean), c.site, c.modality)))


def _modalities(evaluation: Evaluation) -> set[str]:
    scored = (*evaluation.federated, *evaluation.alone)
    return {s.modality for s in scored} | {d.modality for d in evaluation.differences}


def _worst(row: Comparison) -> float:
    change = row.difference.mean if row.difference else math.nan
    return math.inf if math.isnan(change) else change


def _comparison(evaluation: Evaluation, modality: str, label: str) -> Comparison:
    return Comparison(
        label=label,
        federated=_measures(evaluation.federated, modality, label),
        alone=_measures(evaluation.alone, modality, label),
        difference=_difference(evaluation, modality, label),
    )


def _difference(evaluation: Evaluation, modality: str, label: str) -> Difference | None:
    return next(
        (d for d in evaluation.differences if (d.modality, d.label) == (modality, label)), None
    )


def _measures(scores: Iterable[Score], modality: str, label: str) -> Measures:
    held = {s.metric: s for s in scores if (s.modality, s.label) == (modality, label)}
    known = {f.name for f in fields(Measures)}
    cases = held["dice"].cases if "dice" in held else 0
    values = {name: s.value for name, s in held.items() if name in known}
    return Measures(cases=cases, structures=cases, **values)


def _mean_of(rows: Sequence[Measures]) -> Measures:
    """Average labels that have a value; add up what was missed."""
    missed = [r.missed for r in rows if not math.isnan(r.missed)]
    return Measures(
        cases=max((r.cases for r in rows), default=0),
        structures=sum(r.structures for r in rows),
        missed=sum(missed) if missed else math.nan,
        **{name: mean([getattr(r, name) for r in rows]) for name in MEASURES},
    )


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN without any."""
    held = [v for v in values if not math.isnan(v)]
    return math.fsum(held) / len(held) if held else math.nan
