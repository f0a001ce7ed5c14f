"""The rounds: ask, check, write down, fold.

A Flower ``Strategy`` whose loop is its own: Flower's begins every run at round 1 and holds all
answers of a round in memory.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import protocol
from common.errors import UpdateRefusedError
from common.events import HUB, emit
from common.messages import (
    AloneJob,
    AloneReport,
    Context,
    Enrolment,
    EvaluateJob,
    Evaluation,
    Pooled,
    TrainJob,
    Update,
)
from common.parameters import is_used_by, table_of
from common.study.study import Study, canonical_json, study_hash
from common.tensors import TensorFile, digest_of
from server.admission import Asked, change_norm, check_update, outliers
from server.conversation import answers
from server.enrolment import check_enrolment, check_quorum, pool, pool_affinities
from server.folding import Contribution, fold
from server.journal import Accepted, ClosedRound, Journal
from server.selection import choose, metric_of
from server.tables import write_metrics

NO_ANSWER = "did not answer in time"


@dataclass(frozen=True)
class Answer:
    """What one site said: a value, or why it has none."""

    site: str
    message: Message | None
    seconds: float


@final
class RoundStrategy(Strategy):
    """One run of one study, from enrolment to the final figures, resumable at any point.

    Args:
        journal: The run's folder; what it holds has happened and is not asked again.
        study: What is trained.
        run: Identifier of the run.
    """

    def __init__(self, journal: Journal, study: Study, run: str) -> None:
        self.journal, self.study, self.run = journal, study, run
        self._text, self._hash = canonical_json(study), study_hash(study)
        self._table = table_of(journal.model(0))
        self._enrolments: dict[str, Enrolment] = {}
        self._nodes: dict[str, int] = {}
        self._statistics = Pooled()
        self._rounds: list[ClosedRound] = []

    def summary(self) -> None:
        """Log what is about to run."""
        emit(
            HUB,
            "run_started",
            run=self.run,
            study=self.study.name,
            hash=self._hash,
            rounds=self.study.federation.rounds,
            closed=len(self._rounds),
        )

    def start(self, grid: Grid, *_args: Any, **_keywords: Any) -> Result:
        """Run all rounds that are not closed yet, then the final evaluation.

        Takes Flower's further arguments and ignores them: weights, rounds and time limits are
        the study's and the journal's.

        Raises:
            QuorumError: If too few sites remain; what was accepted stays on disk.
        """
        self._rounds = self.journal.closed_rounds()
        if self._rounds:
            self.journal.check_model(self._rounds[-1])
            self.journal.tidy(len(self._rounds))
            choose(self.journal, self._rounds, None)
        self.summary()
        self._enrol(grid)
        result = Result()
        ended = time.monotonic()
        for number in range(len(self._rounds) + 1, self.study.federation.rounds + 1):
            ended = self._round(grid, number, ended)
            choose(self.journal, self._rounds, None)
        self._finish(grid)
        self._tabulate()
        emit(HUB, "run_finished", run=self.run)
        return result

    # --- enrolment -----------------------------------------------------------------------

    def _enrol(self, grid: Grid) -> None:
        job = protocol.pack(self._context(0))
        questions = {n: Message(job, n, protocol.ENROL) for n in sorted(grid.get_node_ids())}
        refused: dict[str, str] = {}
        for node, message, _ in answers(grid, questions, wait_seconds=self._wait):
            try:
                enrolment = _value(Enrolment, message)
                check_enrolment(enrolment, self.study, self._hash)
                if enrolment.site in self._nodes:
                    raise UpdateRefusedError(f"another node is called {enrolment.site} too")
            except UpdateRefusedError as error:
                refused[f"node {node}"] = str(error)
                emit(HUB, "site_refused", node=node, reason=str(error))
                continue
            self._nodes[enrolment.site] = node
            self._enrolments[enrolment.site] = enrolment
            emit(
                HUB,
                "site_enrolled",
                site=enrolment.site,
                annotated=enrolment.annotated,
                cases={m: a.train for m, a in enrolment.accounting.items()},
            )
        self._enrolments = dict(sorted(self._enrolments.items()))
        check_quorum(self._modalities(self._enrolments), self.study, "enrolment", refused)
        self._statistics = self.journal.read("pooled", Pooled) or self._pool_first(refused)

    def _pool_first(self, refused: Mapping[str, str]) -> Pooled:
        self.journal.write(
            "enrolment",
            {
                "sites": {s: protocol.plain(e) for s, e in self._enrolments.items()},
                "refused": dict(refused),
            },
        )
        pooled = pool(self._enrolments.values(), self.study)
        self.journal.write("pooled", pooled)
        return pooled

    # --- one round -----------------------------------------------------------------------

    def _round(self, grid: Grid, number: int, last_ended: float) -> float:
        started = time.monotonic()
        emit(HUB, "round_started", round=number, sites=list(self._enrolments))
        held = {s: a for s, a in self.journal.accepted(number).items() if s in self._enrolments}
        missing = [site for site in self._enrolments if site not in held]
        messages = self._train_messages(number, missing)
        refused: dict[str, str] = {}
        for answer in self._ask(grid, messages):
            self._admit(
                number,
                answer,
                held,
                refused,
                protocol.size_bytes(messages[answer.site].content),
            )
        held, wild = self._judge(held)
        refused |= wild
        check_quorum(self._modalities(held), self.study, f"round {number}", refused)
        folding = time.monotonic()
        digest = self._fold(number, held)
        ended = time.monotonic()
        closed = ClosedRound(
            number=number,
            accepted=tuple(held[s] for s in sorted(held)),
            refused=refused,
            digest=digest,
            seconds=ended - started,
            fold_seconds=ended - folding,
            gap_seconds=started - last_ended,
        )
        self.journal.close(closed)
        self._rounds.append(closed)
        metric = metric_of(closed)
        self._tabulate()
        emit(
            HUB,
            "round_closed",
            round=number,
            accepted=sorted(held),
            refused=refused,
            seconds=round(closed.seconds, 3),
            metric=metric,
        )
        return time.monotonic()

    def _tabulate(self) -> None:
        last, final = (
            self.journal.read(name, dict[str, Evaluation]) or {} for name in ("last", "final")
        )
        write_metrics(self.journal.folder / "metrics.csv", self._rounds, last, final)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each enrolled site; weights and study are the journal's."""
        del arrays, config, grid
        return self._train_messages(server_round, list(self._enrolments)).values()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check, write down and fold answers that Flower's own loop collected."""
        by_node = {node: site for site, node in self._nodes.items()}
        held: dict[str, Accepted] = {}
        refused: dict[str, str] = {}
        for message in replies:
            site = by_node.get(message.metadata.src_node_id)
            if site is not None:
                self._admit(server_round, Answer(site, message, 0.0), held, refused, 0)
        held, wild = self._judge(held)
        check_quorum(
            self._modalities(held), self.study, f"round {server_round}", refused | wild
        )
        self._fold(server_round, held)
        with TensorFile(self.journal.model(server_round)) as file:
            return protocol.pack_weights({name: file.read(name) for name in file.slots}), None

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

    def _train_messages(self, number: int, sites: list[str]) -> dict[str, Message]:
        last = self._rounds[-1] if self._rounds else None
        affinities = pool_affinities(
            {a.report.site: a.report.affinities for a in last.accepted} if last else {}
        )
        every = self.study.evaluation.every
        validate = number > 1 and (number - 1) % every == 0
        pooled = Pooled(statistics=self._statistics.statistics, affinities=affinities)
        arrays = self._arrays(number - 1)
        messages = {}
        for site in sites:
            own = self._own(site, arrays)
            job = TrainJob(
                context=self._context(number),
                pooled=pooled,
                validate=validate,
                kinds={n: self._table[n].kind for n in own},
                weights={},
            )
            messages[site] = Message(
                protocol.pack(job, own), self._nodes[site], protocol.TRAIN, group_id=str(number)
            )
        return messages

    def _admit(
        self,
        number: int,
        answer: Answer,
        held: dict[str, Accepted],
        refused: dict[str, str],
        sent: int,
    ) -> None:
        """Check one answer; on disk and accepted, or refused with its reason."""
        site = answer.site
        try:
            update = _value(Update, answer.message)
            asked = Asked(
                site=site,
                run=self.run,
                study=self._hash,
                round=number,
                enrolment=self._enrolments[site],
            )
            check_update(update, asked, self._table)
        except UpdateRefusedError as error:
            refused[site] = str(error)
            emit(HUB, "update_refused", round=number, site=site, reason=str(error))
            return
        with TensorFile(self.journal.model(number - 1)) as before:
            norm = change_norm(update.weights, before.read)
        received = protocol.size_bytes(answer.message.content) if answer.message else 0
        held[site] = self.journal.accept(
            update.report,
            update.weights,
            norm=norm,
            traffic=(sent, received),
            seconds=answer.seconds,
        )
        emit(
            HUB,
            "update_accepted",
            round=number,
            site=site,
            steps=update.report.steps,
            loss=update.report.loss,
            bytes=received,
            seconds=round(answer.seconds, 3),
            dice=_mean_dice(update),
        )

    def _judge(self, held: dict[str, Accepted]) -> tuple[dict[str, Accepted], dict[str, str]]:
        wild = outliers(
            {s: a.norm for s, a in held.items()},
            {s: tuple(a.report.cases) for s, a in held.items()},
            self.study.federation.largest_norm_ratio,
        )
        for site, reason in wild.items():
            emit(HUB, "update_refused", site=site, reason=reason)
        return {s: a for s, a in held.items() if s not in wild}, wild

    def _fold(self, number: int, held: Mapping[str, Accepted]) -> str:
        contributions = {
            s: Contribution(
                file=self.journal.update_file(number, s),
                cases=a.report.cases,
                annotated=self._enrolments[s].annotated,
            )
            for s, a in held.items()
        }
        before, after = self.journal.model(number - 1), self.journal.model(number)
        with TensorFile(before) as file:
            metadata = file.metadata | {"round": str(number)}
        fold(
            contributions,
            self._table,
            before,
            after,
            metadata=metadata,
            balance_modalities=self.study.federation.balance_modalities,
        )
        return digest_of(after)

    # --- after the last round ------------------------------------------------------------

    def _finish(self, grid: Grid) -> None:
        last = len(self._rounds)
        if self.journal.read("last", dict[str, Any]) is None:
            found = self._evaluate(grid, last, "validation")
            self.journal.write("last", {s: protocol.plain(e) for s, e in found.items()})
        scored = self.journal.read("last", dict[str, Evaluation])
        best = choose(self.journal, self._rounds, scored)
        emit(HUB, "best_chosen", round=best.round, value=best.value)
        if self.study.evaluation.local and self.journal.read("alone", dict[str, Any]) is None:
            self._train_alone(grid)
        if self.journal.read("final", dict[str, Any]) is None:
            found = self._evaluate(grid, best.round, "test")
            self.journal.write("final", {s: protocol.plain(e) for s, e in found.items()})

    def _evaluate(self, grid: Grid, number: int, part: str) -> dict[str, Evaluation]:
        best = part == "test" and self.journal.best_model.exists()
        arrays = self._arrays_of(
            TensorFile(self.journal.best_model if best else self.journal.model(number))
        )
        messages = {}
        for site in self._enrolments:
            own = self._own(site, arrays)
            job = EvaluateJob(
                context=self._context(number),
                pooled=self._statistics,
                part=part,
                kinds={n: self._table[n].kind for n in own},
                weights={},
            )
            messages[site] = Message(
                protocol.pack(job, own), self._nodes[site], protocol.EVALUATE
            )
        return dict(self._values(grid, messages, Evaluation))

    def _train_alone(self, grid: Grid) -> None:
        arrays = self._arrays(0)
        messages = {}
        for site in self._enrolments:
            own = self._own(site, arrays)
            job = AloneJob(
                context=self._context(0),
                pooled=self._statistics,
                kinds={n: self._table[n].kind for n in own},
                weights={},
            )
            messages[site] = Message(protocol.pack(job, own), self._nodes[site], protocol.ALONE)
        found = dict(self._values(grid, messages, AloneReport))
        self.journal.write("alone", {s: protocol.plain(r) for s, r in found.items()})

    def _values(
        self, grid: Grid, messages: Mapping[str, Message], kind: type[Any]
    ) -> Iterator[tuple[str, Any]]:
        for answer in self._ask(grid, messages):
            try:
                value = _value(kind, answer.message)
                if value.site != answer.site:
                    raise UpdateRefusedError("answers for another site")
            except UpdateRefusedError as error:
                emit(HUB, "answer_refused", site=answer.site, reason=str(error))
                continue
            emit(
                HUB,
                "answered",
                site=answer.site,
                what=kind.__name__,
                seconds=round(answer.seconds, 3),
            )
            yield answer.site, value

    # --- shared --------------------------------------------------------------------------

    @property
    def _wait(self) -> float:
        return self.study.federation.answer_seconds

    def _context(self, number: int) -> Context:
        return Context(run=self.run, study=self._text, round=number)

    def _ask(self, grid: Grid, messages: Mapping[str, Message]) -> Iterator[Answer]:
        by_node = {self._nodes[site]: site for site in messages}
        questions = {self._nodes[site]: message for site, message in messages.items()}
        for node, message, seconds in answers(grid, questions, wait_seconds=self._wait):
            yield Answer(by_node[node], message, seconds)

    def _arrays(self, number: int) -> ArrayRecord:
        return self._arrays_of(TensorFile(self.journal.model(number)))

    def _arrays_of(self, source: TensorFile) -> ArrayRecord:
        with source as file:
            return protocol.pack_weights({n: file.read(n) for n in file.slots})

    def _own(self, site: str, arrays: ArrayRecord) -> ArrayRecord:
        """Pick what a site uses; the arrays themselves are shared between messages."""
        modalities = [m for m, a in self._enrolments[site].accounting.items() if a.usable]
        return ArrayRecord(
            {
                name: array
                for name, array in arrays.items()
                if is_used_by(self._table[name].kind, modalities)
            }
        )

    def _modalities(self, sites: Iterable[str]) -> dict[str, list[str]]:
        return {
            site: [m for m, a in self._enrolments[site].accounting.items() if a.train]
            for site in sites
        }


def _value(kind: type[Any], message: Message | None) -> Any:
    """Read an answer, or raise why there is none."""
    if message is None:
        raise UpdateRefusedError(NO_ANSWER)
    if message.has_error():
        raise UpdateRefusedError(f"failed (Flower's error code {message.error.code})")
    content: RecordDict = message.content
    failure = protocol.unpack_failure(content)
    if failure is not None:
        raise UpdateRefusedError(f"{failure.code}: {failure.sentence}")
    return protocol.unpack(kind, content)


def _mean_dice(update: Update) -> float | None:
    values = [s.value for s in update.report.scores if s.metric == "dice" and s.cases]
    return round(sum(values) / len(values), 4) if values else None
