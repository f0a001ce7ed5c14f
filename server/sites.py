"""The enrolled sites of a run: who they are, what they use, and how to ask them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from common import protocol
from common.errors import UpdateRefusedError
from common.events import HUB, emit
from common.messages import Context, Enrolment, Evaluation
from common.parameters import Table, is_used_by
from common.study.study import Study, canonical_json, study_hash
from common.tensors import TensorFile
from server.admission import check_evaluation
from server.conversation import answers
from server.enrolment import check_enrolment

NO_ANSWER = "did not answer in time"


@dataclass(frozen=True)
class Answer:
    """What one site said, and after how many seconds; no message if nothing came in time."""

    site: str
    message: Message | None
    seconds: float


@final
class Sites:
    """The sites of one run.

    Attributes:
        study: What is trained.
        run: Identifier of the run.
        hash: SHA-256 of the study.
        table: All parameters of the study's network.
        enrolments: What each site said of itself, in the order of their names.
        refused: Reason by node, for every node that could not enrol.
    """

    def __init__(self, study: Study, run: str, table: Table) -> None:
        self.study, self.run, self.table = study, run, table
        self.hash = study_hash(study)
        self.enrolments: dict[str, Enrolment] = {}
        self.refused: dict[str, str] = {}
        self._text = canonical_json(study)
        self._nodes: dict[str, int] = {}

    def context(self, number: int) -> Context:
        """Return what every job of a round says first."""
        return Context(run=self.run, study=self._text, round=number)

    def enrol(self, grid: Grid) -> None:
        """Ask every node who it is; who does not fit the study is left out, with its reason."""
        job = protocol.pack(self.context(0))
        questions = {n: Message(job, n, protocol.ENROL) for n in sorted(grid.get_node_ids())}
        wait = self.study.federation.answer_seconds
        for node, message, _ in answers(grid, questions, wait_seconds=wait):
            try:
                enrolment = value_of(Enrolment, message)
                check_enrolment(enrolment, self.study, self.hash)
                if enrolment.site in self._nodes:
                    raise UpdateRefusedError(f"another node is called {enrolment.site} too")
            except UpdateRefusedError as error:
                self.refused[f"node {node}"] = str(error)
                emit(HUB, "site_refused", node=node, reason=str(error))
                continue
            self._nodes[enrolment.site] = node
            self.enrolments[enrolment.site] = enrolment
            cases = {m: a.train for m, a in enrolment.accounting.items()}
            emit(HUB, "site_enrolled", site=enrolment.site, cases=cases,
                 annotated=enrolment.annotated)  # fmt: skip
        self.enrolments = dict(sorted(self.enrolments.items()))

    def message(self, site: str, job: Any, arrays: ArrayRecord, kind: str) -> Message:
        """Address a job with its weights to a site; arrays are shared between messages."""
        return Message(protocol.pack(job, arrays), self._nodes[site], kind)

    def own(self, site: str, arrays: ArrayRecord) -> tuple[ArrayRecord, dict[str, str]]:
        """Pick the parameters that a site uses, and their kinds."""
        accounting = self.enrolments[site].accounting
        modalities = [m for m, account in accounting.items() if account.usable]
        kinds = {
            name: self.table[name].kind
            for name in arrays
            if is_used_by(self.table[name].kind, modalities)
        }
        return ArrayRecord({name: arrays[name] for name in kinds}), kinds

    def site_of(self, node: int) -> str | None:
        """Return the site that is a node, or None."""
        return next((site for site, known in self._nodes.items() if known == node), None)

    def modalities(self, sites: Iterable[str]) -> dict[str, list[str]]:
        """Return the modalities that each of these sites trains."""
        return {
            site: [m for m, a in self.enrolments[site].accounting.items() if a.train]
            for site in sites
        }

    def ask(self, grid: Grid, messages: Mapping[str, Message]) -> Iterator[Answer]:
        """Send one message to each site and yield the answers as they come."""
        questions = {self._nodes[site]: message for site, message in messages.items()}
        by_node = {self._nodes[site]: site for site in messages}
        wait = self.study.federation.answer_seconds
        for node, message, seconds in answers(grid, questions, wait_seconds=wait):
            yield Answer(by_node[node], message, seconds)

    def values(
        self, grid: Grid, messages: Mapping[str, Message], kind: type[Any]
    ) -> Iterator[tuple[str, Any]]:
        """Ask, and yield the usable answers; the others are logged with their reason."""
        for answer in self.ask(grid, messages):
            try:
                value = value_of(kind, answer.message)
                if value.site != answer.site:
                    raise UpdateRefusedError("answers for another site")
                if isinstance(value, Evaluation):
                    check_evaluation(value, self.enrolments[answer.site])
            except UpdateRefusedError as error:
                emit(HUB, "answer_refused", site=answer.site, reason=str(error))
                continue
            emit(HUB, "answered", site=answer.site, what=kind.__name__,
                 seconds=round(answer.seconds, 3))  # fmt: skip
            yield answer.site, value


def value_of(kind: type[Any], message: Message | None) -> Any:
    """Read an answer.

    Raises:
        UpdateRefusedError: Saying why there is none.
    """
    if message is None:
        raise UpdateRefusedError(NO_ANSWER)
    if message.has_error():
        raise UpdateRefusedError(f"failed (Flower's error code {message.error.code})")
    content: RecordDict = message.content
    failure = protocol.unpack_failure(content)
    if failure is not None:
        raise UpdateRefusedError(f"{failure.code}: {failure.sentence}")
    return protocol.unpack(kind, content)


def arrays_of(source: TensorFile) -> ArrayRecord:
    """Read a whole weights file as Flower's arrays, and close it."""
    with source as file:
        return protocol.pack_weights({name: file.read(name) for name in file.slots})
