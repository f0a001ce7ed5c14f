"""The rounds: ask, check, write down, fold.

A Flower ``Strategy`` whose loop is its own: Flower's begins every run at round 1 and holds all
answers of a round in memory.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import protocol
from common.errors import QuorumError, UpdateRefusedError
from common.events import HUB, emit
from common.messages import Evaluation, Pooled, TrainJob, Update
from common.parameters import table_of
from common.study.study import Study
from common.tensors import TensorFile, digest_of
from server.accounting import accounting_problem, repeated
from server.admission import Asked, change_norm, check_update, outliers
from server.direction import against_the_others
from server.enrolment import check_quorum, pool, pool_affinities
from server.finish import finish
from server.folding import Contribution, fold
from server.journal import Accepted, ClosedRound, Enrolled, Journal
from server.roster import Everybody, Roster
from server.selection import choose, metric_of, site_metric
from server.sites import LATE, NOT_THERE, Answer, Sites, arrays_of, value_of
from server.tables import write_metrics

RETRY_SECONDS = 10.0
MOST_STALE = 10  # rounds
STALENESS_EXPONENT = 0.5


@final
class RoundStrategy(Strategy):
    """One run of one study, from enrolment to the final figures, resumable at any point.

    Args:
        journal: The run's folder; what it holds has happened and is not asked again.
        study: What is trained.
        run: Identifier of the run.
        roster: Whom it may ask; everybody in a simulation.
    """

    def __init__(
        self, journal: Journal, study: Study, run: str, roster: Roster | None = None
    ) -> None:
        self.journal, self.study = journal, study
        self.sites = Sites(study, run, table_of(journal.model(0)), roster or Everybody())
        self._pooled = Pooled()
        self._rounds: list[ClosedRound] = []

    def summary(self) -> None:
        """Log what is about to run."""
        emit(
            HUB, "run_started", run=self.sites.run, study=self.study.name, hash=self.sites.hash,
            rounds=self.study.federation.rounds, closed=len(self._rounds),
        )  # fmt: skip

    def start(self, grid: Grid, *_args: Any, **_keywords: Any) -> Result:
        """Run all rounds that are not closed yet, then the final evaluation.

        Takes Flower's further arguments and ignores them: weights, rounds and time limits are
        the study's and the journal's.

        Raises:
            QuorumError: If too few sites remain; what was accepted stays on disk.
        """
        self._rounds = self.journal.closed_rounds()
        if self._rounds:
            self.journal.tidy(len(self._rounds))
            scored = self.journal.read("last", dict[str, Evaluation])
            choose(self.journal, self._rounds, scored)
        self.summary()
        self.enrol(grid)
        ended = time.monotonic()
        for number in range(len(self._rounds) + 1, self.study.federation.rounds + 1):
            ended = self._round(grid, number, ended)
        finish(grid, self.sites, self.journal, self._rounds, self._pooled)
        self._tabulate()
        emit(HUB, "run_finished", run=self.sites.run)
        return Result()

    def enrol(self, grid: Grid) -> Pooled:
        """Hear who takes part; return what is pooled of them, fixed for the run the first time.

        Raises:
            QuorumError: If too few take part.
        """
        sites = self.sites
        sites.enrol(grid)
        modalities = sites.modalities(sites.enrolments)
        check_quorum(modalities, self.study, "enrolment", sites.refused)
        held: Pooled | None = self.journal.read("pooled", Pooled)
        if held is None or self.journal.read("enrolment", Enrolled) is None:
            told = {site: asdict(e) for site, e in sites.enrolments.items()}
            self.journal.write("enrolment", {"sites": told, "refused": sites.refused})
        if held is None:
            held = pool(sites.enrolments.values(), self.study)
            self.journal.write("pooled", held)
        self._pooled = held
        return held

    # --- one round -----------------------------------------------------------------------

    def _round(self, grid: Grid, number: int, last_ended: float) -> float:
        """Ask who has not answered yet, close the round; return when it ended."""
        started = time.monotonic()
        if self.sites.roster.changes:
            self.sites.enrol(grid)
        enrolled = self.sites.enrolments
        emit(HUB, "round_started", round=number, sites=list(enrolled))
        held = {s: a for s, a in self.journal.accepted(number).items() if s in enrolled}
        refused: dict[str, str] = {}
        for retry in range(self._retries + 1):
            self._collect(grid, number, held, refused)
            kept = self._without_outliers(held, refused)
            missing = self._missing(number, kept, refused)
            if not missing or retry == self._retries:
                break
            emit(HUB, "round_retried", round=number, reason=missing)
            time.sleep(RETRY_SECONDS * (retry + 1))
        ended = self._close(number, kept, refused, (started, last_ended))
        choose(self.journal, self._rounds, None)
        self._tabulate()
        return ended

    @property
    def _retries(self) -> int:
        return self.study.federation.retries if self.sites.roster.changes else 0

    def _collect(
        self, grid: Grid, number: int, held: dict[str, Accepted], refused: dict[str, str]
    ) -> None:
        """Ask all sites that are there and whose update is not, and hear them."""
        there = self.sites.present(grid)
        for site in self.sites.enrolments:
            if site not in there and site not in held:
                refused[site] = NOT_THERE
        messages = self._train_messages(number, [site for site in there if site not in held])
        for answer in self.sites.ask(grid, messages):
            if answer.late:
                self._admit_late(number, answer, held, refused)
                continue
            refused.pop(answer.site, None)
            sent = protocol.size_bytes(messages[answer.site].content)
            self._admit(number, answer, sent, held, refused)
            if answer.site in held:
                self.sites.deadlines.note(answer.site, answer.seconds)

    def _missing(
        self, number: int, held: Mapping[str, Accepted], refused: Mapping[str, str]
    ) -> str:
        """Return what a round lacks to close; nothing if it can."""
        try:
            modalities = self.sites.modalities(held)
            check_quorum(modalities, self.study, f"round {number}", refused)
        except QuorumError as error:
            return str(error)
        return ""

    def _close(
        self, number: int, held: Mapping[str, Accepted], refused: dict[str, str],
        began: tuple[float, float],
    ) -> float:  # fmt: skip
        """Fold and write down; return when the new weights were there."""
        started, last_ended = began
        check_quorum(self.sites.modalities(held), self.study, f"round {number}", refused)
        folding = time.monotonic()
        digest = self._fold(number, held)
        ended = time.monotonic()
        closed = ClosedRound(
            number=number, accepted=tuple(held[s] for s in sorted(held)), refused=refused,
            digest=digest, seconds=ended - started, fold_seconds=ended - folding,
            gap_seconds=started - last_ended, marks=self._marks(number, held),
        )  # fmt: skip
        self.journal.close(closed)
        self._rounds.append(closed)
        emit(
            HUB, "round_closed", round=number, accepted=sorted(held), refused=refused,
            seconds=round(closed.seconds, 3), metric=metric_of(closed),
        )  # fmt: skip
        return ended

    def _marks(self, number: int, held: Mapping[str, Accepted]) -> dict[str, str]:
        marks = {}
        for site, accepted in sorted(held.items()):
            problem = accounting_problem(accepted.report, self.sites.enrolments[site])
            if problem:
                marks[site] = problem
                emit(HUB, "accounting_wrong", site=site, reason=problem)
        odd = [repeated(held, self._rounds[-1:]), self._against(number, held)]
        for site, problem in (item for found in odd for item in found.items()):
            marks[site] = "; ".join(filter(None, [marks.get(site), problem]))
            emit(HUB, "update_flagged", site=site, reason=problem)
        return marks

    def _against(self, number: int, held: Mapping[str, Accepted]) -> dict[str, str]:
        files = {site: self.journal.update_file(number, site) for site in held}
        modalities = {site: tuple(accepted.report.cases) for site, accepted in held.items()}
        found = against_the_others(
            files, modalities, self.sites.table, self.journal.model(number - 1)
        )
        return {
            site: f"its change goes against the others' (cosine {cosine:.2f})"
            for site, cosine in found.items()
        }

    def _train_messages(self, number: int, sites: Iterable[str]) -> dict[str, Message]:
        last = self._rounds[-1].accepted if self._rounds else ()
        pooled = Pooled(
            statistics=self._pooled.statistics,
            affinities=pool_affinities({a.report.site: a.report.affinities for a in last}),
        )
        validate = number > 1 and (number - 1) % self.study.evaluation.every == 0
        arrays = arrays_of(self.journal.model(number - 1))
        messages = {}
        for site in sites:
            own, kinds = self.sites.own(site, arrays)
            job = TrainJob(
                context=self.sites.context(number), pooled=pooled, validate=validate,
                kinds=kinds, weights={},
            )  # fmt: skip
            messages[site] = self.sites.message(site, job, own, protocol.TRAIN)
        return messages

    def _admit(
        self, number: int, answer: Answer, sent: int, held: dict[str, Accepted],
        refused: dict[str, str],
    ) -> None:  # fmt: skip
        """Check one answer: on disk and accepted, or refused with its reason."""
        site = answer.site
        try:
            update: Update = value_of(Update, answer.message)
            self._check(site, update, number)
        except UpdateRefusedError as error:
            if site not in held:  # a late one of an earlier round may count
                refused[site] = str(error)
            emit(HUB, "update_refused", round=number, site=site, reason=str(error))
            return
        held[site] = self._accept(number, answer, update, sent)
        dice = site_metric(update.report.scores)
        emit(
            HUB, "update_accepted", round=number, site=site, steps=update.report.steps,
            loss=update.report.loss, bytes=held[site].received,
            seconds=round(answer.seconds, 3),
            dice=None if math.isnan(dice) else round(dice, 4),
        )  # fmt: skip

    def _admit_late(
        self, number: int, answer: Answer, held: dict[str, Accepted], refused: dict[str, str]
    ) -> None:
        """Fold an update of an earlier round into this one, if the study says so."""
        site = answer.site
        try:
            update: Update = value_of(Update, answer.message)
            asked = update.report.round
            if self.study.federation.late == "refuse":
                raise UpdateRefusedError(f"{LATE}: it is of round {asked}")
            if not 0 < number - asked <= MOST_STALE:
                raise UpdateRefusedError(f"is of round {asked}, in round {number}")
            if site in held:
                raise UpdateRefusedError(f"is of round {asked}; a newer one is here")
            self._check(site, update, asked)
        except UpdateRefusedError as error:
            emit(HUB, "update_refused", round=number, site=site, reason=str(error))
            return
        # its scores are of older weights than this round's
        report = replace(update.report, scores=())
        held[site] = self._accept(
            number, answer, replace(update, report=report), sent=0, staleness=number - asked
        )
        refused.pop(site, None)
        emit(HUB, "late_update_accepted", round=number, site=site, asked=asked)

    def _check(self, site: str, update: Update, number: int) -> None:
        sites = self.sites
        asked = Asked(
            site=site, run=sites.run, study=sites.hash, round=number,
            enrolment=sites.enrolments[site],
        )  # fmt: skip
        check_update(update, asked, sites.table)

    def _accept(
        self, number: int, answer: Answer, update: Update, sent: int, staleness: int = 0
    ) -> Accepted:
        with TensorFile(self.journal.model(number - 1)) as before:
            norm = change_norm(update.weights, before.read)
        received = protocol.size_bytes(answer.message.content) if answer.message else 0
        return self.journal.accept(
            update.report, update.weights, norm=norm, traffic=(sent, received),
            seconds=answer.seconds, staleness=staleness,
        )  # fmt: skip

    def _without_outliers(
        self, held: Mapping[str, Accepted], refused: dict[str, str]
    ) -> dict[str, Accepted]:
        wild = outliers(
            {site: accepted.norm for site, accepted in held.items()},
            {site: tuple(accepted.report.cases) for site, accepted in held.items()},
            self.study.federation.largest_norm_ratio,
        )
        for site, reason in wild.items():
            refused[site] = reason
            emit(HUB, "update_refused", site=site, reason=reason)
        return {site: accepted for site, accepted in held.items() if site not in wild}

    def _fold(self, number: int, held: Mapping[str, Accepted]) -> str:
        """Write the new weights; return their digest."""
        contributions = {
            site: Contribution(
                file=self.journal.update_file(number, site),
                cases=accepted.report.cases,
                annotated=self.sites.enrolments[site].annotated,
                discount=(1 + accepted.staleness) ** -STALENESS_EXPONENT,
            )
            for site, accepted in held.items()
        }
        before, after = self.journal.model(number - 1), self.journal.model(number)
        with TensorFile(before) as file:
            metadata = file.metadata | {"round": str(number)}
        balance = self.study.federation.balance_modalities
        fold(
            contributions, self.sites.table, before, after, metadata=metadata,
            balance_modalities=balance,
        )  # fmt: skip
        return digest_of(after)

    def _tabulate(self) -> None:
        last, final = (
            self.journal.read(name, dict[str, Evaluation]) or {} for name in ("last", "final")
        )
        write_metrics(self.journal.folder / "metrics.csv", self._rounds, last, final)

    # --- Flower's verbs, for a loop that is not ours ---------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each enrolled site; weights and study are the journal's."""
        del arrays, config, grid
        return self._train_messages(server_round, self.sites.enrolments).values()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, write down and fold answers that another loop collected."""
        held: dict[str, Accepted] = {}
        refused: dict[str, str] = {}
        for message in replies:
            site = self.sites.site_of(message.metadata.src_node_id)
            if site is not None:
                self._admit(server_round, Answer(site, message, 0.0), 0, held, refused)
        now = time.monotonic()
        self._close(server_round, self._without_outliers(held, refused), refused, (now, now))
        return arrays_of(self.journal.model(server_round)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return nothing: a site scores the weights that come with its next job."""
        del server_round, arrays, config, grid
        return ()

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing: see :meth:`configure_evaluate`."""
        del server_round, replies
        return None
