"""What is checked before an update counts.

Everything but the norm is checked when it arrives; the norm is judged when the round closes,
against the others of the same modality, so that the verdict does not depend on who was first.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import IncompatibleWeightsError, UpdateRefusedError
from common.messages import Enrolment, Evaluation, Score, Update, UpdateReport
from common.parameters import Table, check_weights, is_trained_by
from common.tensors import Weights

METRIC = re.compile(r"[a-z0-9_]{1,40}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the hub asked one site for.

    Attributes:
        site: Its name.
        run: Of the job.
        study: Hash of the study.
        round: Of the job.
        enrolment: What the site said of itself before the first round.
    """

    site: str
    run: str
    study: str
    round: int
    enrolment: Enrolment


def expected_of(enrolment: Enrolment, table: Table) -> Table:
    """Return the parameters that a site must answer with."""
    modalities = [m for m, account in enrolment.accounting.items() if account.train]
    return {
        name: parameter
        for name, parameter in table.items()
        if is_trained_by(parameter.kind, modalities, enrolment.annotated)
    }


def check_update(update: Update, asked: Asked, table: Table) -> None:
    """Refuse an update that must not count.

    Raises:
        UpdateRefusedError: With the reason, in words for the log and the report.
    """
    _check_origin(update.report, asked)
    _check_counts(update.report, asked.enrolment)
    try:
        check_weights(update.weights, expected_of(asked.enrolment, table))
    except IncompatibleWeightsError as error:
        raise UpdateRefusedError(str(error)) from error
    for name, array in update.weights.items():
        if not np.isfinite(array).all():
            raise UpdateRefusedError(f"{name}: holds NaN or infinity")
        if array.any() and np.abs(array).max() < np.finfo(array.dtype).tiny:
            raise UpdateRefusedError(f"{name}: holds denormal numbers alone")
    classes = {p.kind for p in table.values() if p.kind.startswith("head:")}
    _check_affinities(update.report, asked.enrolment, len(classes))
    check_scores(update.report.scores, asked.enrolment)


def _check_origin(report: UpdateReport, asked: Asked) -> None:
    for what in ("site", "run", "study", "round"):
        found, expected = getattr(report, what), getattr(asked, what)
        if found != expected:
            raise UpdateRefusedError(
                f"answers for another {what}: {str(found)[:60]!r}, expected {expected!r}"
            )


def _check_counts(report: UpdateReport, enrolment: Enrolment) -> None:
    trained = {m: a.train for m, a in enrolment.accounting.items() if a.train}
    if set(report.cases) != set(trained):
        raise UpdateRefusedError(
            f"reports modalities {sorted(report.cases)[:9]}, expected {sorted(trained)}"
        )
    for modality, count in report.cases.items():
        if count < 1:
            raise UpdateRefusedError(f"reports {count} {modality} cases, expected 1 or more")
        if count > trained[modality]:
            raise UpdateRefusedError(
                f"reports {count} {modality} cases, but declared {trained[modality]}"
            )
    check_reasons(report.skipped)
    if report.steps < 1:
        raise UpdateRefusedError(f"reports {report.steps} steps, expected 1 or more")


def _check_affinities(report: UpdateReport, enrolment: Enrolment, classes: int) -> None:
    if not set(report.affinities) <= set(enrolment.accounting):
        raise UpdateRefusedError("reports affinities of modalities that it does not have")
    for affinity in report.affinities.values():
        numbers = [x for row in affinity.sums for x in row] + list(affinity.counts)
        if not all(map(math.isfinite, numbers)) or any(n < 0 for n in affinity.counts):
            raise UpdateRefusedError(
                "its class affinities hold NaN, infinity or negative counts"
            )
        if [len(row) for row in (affinity.counts, *affinity.sums)] != [classes] * (classes + 1):
            raise UpdateRefusedError(f"its class affinities are not {classes} x {classes}")


def check_reasons(skipped: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse reasons that are no plain words: they come to stand in logs, pages and tables.

    Raises:
        UpdateRefusedError: Naming the first that is none.
    """
    for reason in (r for by_reason in skipped.values() for r in by_reason):
        if not METRIC.fullmatch(reason):
            raise UpdateRefusedError(f"names a reason {reason[:40]!r}, which is none")


def check_scores(scores: Iterable[Score], enrolment: Enrolment) -> None:
    """Refuse scores that a site cannot have, as they choose the best round.

    Raises:
        UpdateRefusedError: For a Dice outside 0 to 1, a label or modality that the site lacks,
            or more cases than it holds out.
    """
    for s in scores:
        account = enrolment.accounting.get(s.modality)
        if account is None or s.label not in enrolment.annotated:
            raise UpdateRefusedError("scores a modality or label that it does not have")
        if not 0 <= s.cases <= max(account.validation, account.test):
            raise UpdateRefusedError(f"scores {s.cases} {s.modality} cases, more than it holds")
        if not METRIC.fullmatch(s.metric):
            raise UpdateRefusedError(f"names a metric {s.metric[:40]!r}, which is none")
        if s.metric == "dice" and s.cases and not 0 <= s.value <= 1:
            raise UpdateRefusedError(f"reports a Dice of {s.value:g}, expected 0 to 1")


def check_evaluation(evaluation: Evaluation, enrolment: Enrolment) -> None:
    """Refuse an evaluation whose scores a site cannot have; see :func:`check_scores`."""
    check_scores((*evaluation.federated, *evaluation.alone), enrolment)
    check_reasons(evaluation.skipped)
    for d in evaluation.differences:
        known = d.label == "mean" or d.label in enrolment.annotated
        if d.modality not in enrolment.accounting or not known:
            raise UpdateRefusedError("compares a modality or label that it does not have")
        if not all(-1 <= x <= 1 for x in (d.mean, d.low, d.high)):
            raise UpdateRefusedError("reports a difference of Dice outside -1 to 1")


def change_norm(weights: Weights, before: Callable[[str], NDArray[Any]]) -> float:
    """Return the L2 norm of an update's change of the weights.

    Args:
        weights: Of the update.
        before: Reads one array of the weights that were sent.
    """
    squares = 0.0
    for name, array in weights.items():
        change = np.subtract(array, before(name), dtype=np.float64).reshape(-1)
        squares += float(change @ change)
    return math.sqrt(squares)


def outliers(
    norms: Mapping[str, float], modalities: Mapping[str, tuple[str, ...]], ratio: float
) -> dict[str, str]:
    """Find updates that changed far more than the others of their modality.

    The lower median is the yardstick, so that of two sites the wilder one is refused; a site
    that is alone with its modality has no yardstick and stays.

    Args:
        norms: Of each site's change.
        modalities: Of each site.
        ratio: Largest norm over the median; 0 switches the check off.

    Returns:
        The reason for each site to be refused.
    """
    if not ratio:
        return {}
    refused = {}
    for site in sorted(norms):
        group = [
            norms[other] for other in norms if set(modalities[other]) & set(modalities[site])
        ]
        middle = median_low([norm for norm in group if norm] or [0.0])
        if len(group) > 1 and norms[site] > ratio * middle:
            refused[site] = (
                f"its change has norm {norms[site]:.4g}, more than {ratio:g} times "
                f"the median {middle:.4g} of its modality"
            )
    return refused
