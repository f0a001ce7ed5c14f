"""Who takes part, and what is pooled of them before the first round."""

import math
from collections.abc import Iterable, Mapping

from common.errors import QuorumError, UpdateRefusedError
from common.messages import SITE_NAME, ClassAffinity, Enrolment, IntensityTotals, Pooled
from common.study.study import Study
from server.admission import check_reasons

LARGEST_COUNT = 10_000_000


def check_enrolment(enrolment: Enrolment, study: Study, study_hash: str) -> None:
    """Refuse a site whose answer does not fit the study.

    Raises:
        UpdateRefusedError: With the reason.
    """
    if not SITE_NAME.fullmatch(enrolment.site):
        raise UpdateRefusedError(
            f"calls itself {enrolment.site[:60]!r}, which is no site's name"
        )
    if enrolment.study != study_hash:
        raise UpdateRefusedError("read another study")
    strangers = set(enrolment.accounting) - set(study.modalities)
    if strangers:
        raise UpdateRefusedError(
            f"has modalities that the study lacks: {sorted(strangers)[:5]}"
        )
    if set(enrolment.annotated) - set(study.label_names):
        raise UpdateRefusedError("annotates labels that the study lacks")
    if not enrolment.annotated:
        raise UpdateRefusedError("annotates no label of the study")
    if not any(account.train for account in enrolment.accounting.values()):
        raise UpdateRefusedError("has no usable training case")
    _check_accounting(enrolment)
    _check_totals(enrolment, study.channels)


def _check_accounting(enrolment: Enrolment) -> None:
    check_reasons({m: account.skipped for m, account in enrolment.accounting.items()})
    for modality, account in enrolment.accounting.items():
        parts = account.train + account.validation + account.test
        skipped = sum(account.skipped.values())
        if account.declared > LARGEST_COUNT:
            raise UpdateRefusedError(f"declares {account.declared} {modality} cases")
        if parts != account.usable or account.usable + skipped != account.declared:
            raise UpdateRefusedError(f"its {modality} cases do not add up")
        if min(account.train, account.validation, account.test, *account.skipped.values()) < 0:
            raise UpdateRefusedError(f"has a negative number of {modality} cases")


def _check_totals(enrolment: Enrolment, channels: int) -> None:
    for modality, totals in enrolment.totals.items():
        numbers = [x for t in totals for x in (t.count, t.total, t.squares)]
        if len(totals) != channels or not all(map(math.isfinite, numbers)):
            raise UpdateRefusedError(f"its {modality} intensity sums cannot be pooled")


def pool(enrolments: Iterable[Enrolment], study: Study) -> Pooled:
    """Pool the intensity sums of every modality that the study z-scores over all sites."""
    statistics = {}
    held = list(enrolments)
    for name, modality in sorted(study.modalities.items()):
        if modality.intensity != "hounsfield":
            continue
        totals = [
            e.totals[name] for e in sorted(held, key=lambda e: e.site) if name in e.totals
        ]
        if totals:
            statistics[name] = tuple(
                _mean_and_deviation(channel) for channel in zip(*totals, strict=True)
            )
    return Pooled(statistics=statistics)


def _mean_and_deviation(totals: tuple[IntensityTotals, ...]) -> tuple[float, float]:
    count = sum(t.count for t in totals)
    if not count:
        return 0.0, 1.0
    mean = math.fsum(t.total for t in totals) / count
    variance = max(math.fsum(t.squares for t in totals) / count - mean**2, 0.0)
    return mean, math.sqrt(variance) or 1.0


def pool_affinities(
    reported: Mapping[str, Mapping[str, ClassAffinity]],
) -> dict[str, ClassAffinity]:
    """Add the class affinities of all sites, by modality, in site order."""
    pooled: dict[str, ClassAffinity] = {}
    for site in sorted(reported):
        for modality, affinity in sorted(reported[site].items()):
            pooled[modality] = (
                _add(pooled[modality], affinity) if modality in pooled else affinity
            )
    return pooled


def _add(one: ClassAffinity, two: ClassAffinity) -> ClassAffinity:
    rows = zip(one.sums, two.sums, strict=True)
    return ClassAffinity(
        sums=tuple(tuple(a + b for a, b in zip(x, y, strict=True)) for x, y in rows),
        counts=tuple(a + b for a, b in zip(one.counts, two.counts, strict=True)),
    )


def check_quorum(
    modalities: Mapping[str, Iterable[str]],
    study: Study,
    where: str,
    refused: Mapping[str, str],
) -> None:
    """Hold the sites that remain against what the study needs.

    Args:
        modalities: Of each remaining site.
        study: Says how many are needed, in all and within each of its modalities.
        where: "round 3", for the message.
        refused: Reason by site, for the message.

    Raises:
        QuorumError: If too few remain; it says who is missing and why.
    """
    need, each = study.federation.minimum_sites, study.federation.minimum_sites_per_modality
    reasons = "".join(f"\n  {site}: {reason}" for site, reason in sorted(refused.items()))
    if len(modalities) < max(need, 1):
        raise QuorumError(
            f"{where}: {len(modalities)} sites remain, the study needs {need} "
            f"(federation.minimum_sites){reasons}"
        )
    for name in sorted(study.modalities):
        have = sum(1 for held in modalities.values() if name in set(held))
        if have < each:
            raise QuorumError(
                f"{where}: {have} sites with {name} remain, the study needs {each} "
                f"(federation.minimum_sites_per_modality){reasons}"
            )
