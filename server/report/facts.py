"""What a run's report says, read from the run's folder and nowhere else.

A run that is not finished, or not even begun, has facts too: what is missing is among them.
A number that does not exist is NaN here, never 0.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import IncompatibleWeightsError
from common.messages import AloneReport, Evaluation
from common.parameters import table_of
from common.study.study import Study
from server.journal import Chosen, ClosedRound, Damage, Enrolled, Journal
from server.report.comparison import SiteComparison, compare
from server.run import RunInfo, read_run
from server.selection import mean_metric, metric_of


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """One line of a site's own table of cases: one label of one case under one model."""

    site: str
    case: str
    modality: str
    label: str
    model: str
    dice: float
    missed: bool
    spurious: bool


@dataclass(frozen=True, kw_only=True)
class CasePictures:
    """One slice of one case, PNG in base64 by layer: image, reference, federated, alone."""

    site: str
    case: str
    modality: str
    layers: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class SiteFiles:
    """What only the sites have; a simulation has it at hand, a hub never does."""

    cases: tuple[CaseRow, ...]
    pictures: tuple[CasePictures, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """The cases of one site and modality, as declared and as the rounds used them.

    Attributes:
        site: Its name.
        modality: Of the cases.
        declared: In its datasets.
        usable: Readable and labelled.
        train: Usable cases that train.
        validation: Usable cases that choose the best round.
        test: Usable cases of the final figures.
        skipped: Cases set aside by reason, as last reported.
        used: Training cases drawn at least once, by round; None where no update counted.
        odd: What does not add up, in words.
    """

    site: str
    modality: str
    declared: int
    usable: int
    train: int
    validation: int
    test: int
    skipped: dict[str, int]
    used: dict[int, int | None]
    odd: tuple[str, ...]

    @property
    def skipped_cases(self) -> int:
        """Cases set aside, for whatever reason."""
        return sum(self.skipped.values())


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An answer that did not count, and why."""

    round: int
    site: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SiteWork:
    """What one site did over all rounds; bytes as the hub counted them."""

    site: str
    accepted: int
    refused: int
    steps: int
    train_seconds: float
    answer_seconds: float
    sent: int
    received: int


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Parameters that are averaged over the same sites."""

    name: str
    parameters: int
    size_bytes: int


Points = dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that the page says.

    Attributes:
        info: ``run.json``.
        study: The same study as types.
        enrolled: Who takes part and who was turned away.
        rounds: All closed rounds.
        chosen: The best round and the metric of each.
        missing: What the run has not (yet), one sentence each.
        finished: Whether the final figures are there.
        tested_round: Round whose weights gave the final figures, or None.
        comparisons: Federated beside alone, worst difference first.
        validation: Validation Dice by label: points (round, Dice) by site.
        metric: Points (round, mean over sites).
        losses: Points (round, mean training loss) by site.
        accounts: Cases by site and modality.
        refusals: All updates that did not count.
        damage: Files of the run that were found damaged, and what was done.
        work: Totals by site.
        kinds: The network's parameters by kind; empty if the weights cannot be read.
        alone: What each site said of training alone.
    """

    info: RunInfo
    study: Study
    enrolled: Enrolled
    rounds: tuple[ClosedRound, ...]
    chosen: Chosen
    missing: tuple[str, ...]
    finished: bool
    tested_round: int | None
    comparisons: tuple[SiteComparison, ...]
    validation: dict[str, Points]
    metric: tuple[tuple[float, float], ...]
    losses: Points
    accounts: tuple[Account, ...]
    refusals: tuple[Refusal, ...]
    damage: tuple[Damage, ...]
    work: tuple[SiteWork, ...]
    kinds: tuple[Kind, ...]
    alone: dict[str, AloneReport]


def read_facts(run: Path) -> Facts:
    """Read a run's folder, in whatever state it is. Nothing is changed.

    Raises:
        InputError: If the folder is no run.
        RunError: If a record is damaged.
    """
    info, journal = read_run(run), Journal(run)
    study, rounds = info.typed_study, tuple(journal.closed_rounds())
    enrolled = journal.read("enrolment", Enrolled) or Enrolled()
    last, final = (journal.read(name, dict[str, Evaluation]) for name in ("last", "final"))
    alone = journal.read("alone", dict[str, AloneReport])
    tested = sorted(final or {})
    return Facts(
        info=info,
        study=study,
        enrolled=enrolled,
        rounds=rounds,
        chosen=journal.read("best", Chosen) or Chosen(),
        missing=tuple(_missing(study, enrolled, rounds, {"last": last, "final": final}, alone)),
        finished=final is not None,
        tested_round=final[tested[0]].round if final else None,
        comparisons=compare(final or {}, study),
        validation=_validation(rounds, last or {}),
        metric=_metric(rounds, last or {}),
        losses={
            site: tuple(
                (float(c.number), a.report.loss)
                for c in rounds
                for a in c.accepted
                if a.report.site == site
            )
            for site in _sites(enrolled, rounds)
        },
        accounts=tuple(_accounts(enrolled, rounds)),
        refusals=tuple(
            Refusal(round=c.number, site=site, reason=reason)
            for c in rounds
            for site, reason in sorted((*c.refused.items(), *_marked(c)))
        ),
        damage=journal.read("damage", tuple[Damage, ...]) or (),
        work=tuple(_work(site, rounds) for site in _sites(enrolled, rounds)),
        kinds=_kinds(run / "initial.safetensors"),
        alone=alone or {},
    )


def _sites(enrolled: Enrolled, rounds: Iterable[ClosedRound]) -> list[str]:
    heard = {a.report.site for c in rounds for a in c.accepted}
    return sorted(set(enrolled.sites) | heard | {s for c in rounds for s in c.refused})


def _missing(
    study: Study,
    enrolled: Enrolled,
    rounds: Sequence[ClosedRound],
    evaluations: Mapping[str, Mapping[str, Evaluation] | None],
    alone: Mapping[str, AloneReport] | None,
) -> Iterator[str]:
    """Say what a finished run would have and this one has not."""
    planned = study.federation.rounds
    if not enrolled.sites:
        yield "No site has enrolled yet."
    if len(rounds) < planned:
        yield f"{len(rounds)} of {planned} rounds are closed."
    for closed in rounds:
        if closed.lost:
            yield f"What is known of round {closed.number} was lost: {closed.lost}."
    names = {
        "last": "the validation after the last round",
        "alone": "the training of models alone",
        "final": "the final evaluation on held-out cases",
    }
    for key, found in (*evaluations.items(), ("alone", alone)):
        if key == "alone" and not study.evaluation.local:
            yield "The study asks for no model trained alone, so nothing can be compared."
        elif found is None:
            yield f"{names[key][0].upper()}{names[key][1:]} has not happened yet."
        else:
            for site in sorted(set(enrolled.sites) - set(found)):
                yield f"{site} is missing from {names[key]}: it gave no valid answer."


# --- curves ------------------------------------------------------------------------------


def _validation(
    rounds: Sequence[ClosedRound], last: Mapping[str, Evaluation]
) -> dict[str, Points]:
    """Gather validation Dice by label and site; a round's weights are scored in the next."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    scored = [
        (c.number - 1, a.report.site, a.report.scores) for c in rounds for a in c.accepted
    ]
    scored += [(len(rounds), site, e.federated) for site, e in sorted(last.items())]
    for number, site, scores in scored:
        several = len({s.modality for s in scores}) > 1
        for s in (s for s in scores if s.metric == "dice" and s.cases):
            name = f"{site} · {s.modality}" if several else site
            by_site = found.setdefault(s.label, {})
            by_site.setdefault(name, []).append((float(number), s.value))
    return {
        label: {site: tuple(points) for site, points in sorted(by_site.items())}
        for label, by_site in found.items()
    }


def _metric(
    rounds: Sequence[ClosedRound], last: Mapping[str, Evaluation]
) -> tuple[tuple[float, float], ...]:
    found = [(c.number - 1, metric_of(c)) for c in rounds]
    found.append((len(rounds), mean_metric([e.federated for e in last.values()])))
    return tuple((float(number), value) for number, value in found if value is not None)


# --- cases, updates, parameters ----------------------------------------------------------


def _accounts(enrolled: Enrolled, rounds: Sequence[ClosedRound]) -> Iterator[Account]:
    for site, enrolment in sorted(enrolled.sites.items()):
        for modality, a in sorted(enrolment.accounting.items()):
            skipped, used, odd = dict(a.skipped), {}, []
            if a.usable + sum(a.skipped.values()) != a.declared:
                odd.append("usable and skipped cases are not the declared ones")
            if a.train + a.validation + a.test != a.usable:
                odd.append("training, validation and test cases are not the usable ones")
            for closed in rounds:
                report = next(
                    (u.report for u in closed.accepted if u.report.site == site), None
                )
                used[closed.number] = report.used.get(modality, 0) if report else None
                if report is None or (not a.train and modality not in report.cases):
                    continue
                skipped = report.skipped.get(modality, skipped)
                parts = report.cases.get(modality, 0) + a.validation + a.test
                if parts + sum(skipped.values()) != a.declared:
                    odd.append(f"round {closed.number}: its cases are not the declared ones")
                if report.used.get(modality, 0) > report.cases.get(modality, 0):
                    odd.append(f"round {closed.number}: more cases were used than it has")
            yield Account(
                site=site,
                modality=modality,
                declared=a.declared,
                usable=a.usable,
                train=a.train,
                validation=a.validation,
                test=a.test,
                skipped=skipped,
                used=used,
                odd=tuple(odd),
            )


def _work(site: str, rounds: Sequence[ClosedRound]) -> SiteWork:
    held = [a for c in rounds for a in c.accepted if a.report.site == site]
    return SiteWork(
        site=site,
        accepted=len(held),
        refused=sum(site in c.refused for c in rounds),
        steps=sum(a.report.steps for a in held),
        train_seconds=math.fsum(a.report.seconds.get("train", 0.0) for a in held),
        answer_seconds=math.fsum(a.seconds for a in held),
        sent=sum(a.sent for a in held),
        received=sum(a.received for a in held),
    )


def _kinds(path: Path) -> tuple[Kind, ...]:
    """Count the network's parameters by kind: shared first, then modalities, then heads."""
    try:
        table = table_of(path)
    except (OSError, IncompatibleWeightsError):
        return ()
    counts: dict[str, list[int]] = {}
    for parameter in table.values():
        entry = counts.setdefault(parameter.kind, [0, 0])
        entry[0] += math.prod(parameter.shape)
        entry[1] += parameter.size_bytes
    order = ("shared", "modality", "head", "site")
    return tuple(
        Kind(name=name, parameters=number, size_bytes=size)
        for name, (number, size) in sorted(
            counts.items(), key=lambda item: (order.index(item[0].partition(":")[0]), item[0])
        )
    )


def _marked(closed: ClosedRound) -> list[tuple[str, str]]:
    return [(site, f"counted, but {what}") for site, what in sorted(closed.marks.items())]
