"""The enrolled sites of a run: who they are, what they use, and how to ask them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from common import protocol
from common.errors import UpdateRefusedError
from common.events import HUB, emit
from common.messages import Context, Enrolment, Evaluation
from common.parameters import Table, is_used_by, table_of
from common.study.study import Study, canonical_json, study_hash
from common.tensors import read_tensors
from server.admission import check_evaluation
from server.conversation import Heard, answers
from server.deadlines import Deadlines
from server.enrolment import check_enrolment
from server.pulling import Pulls
from server.roster import Roster

# never Flower's own text: it quotes what a site's process raised
FLOWER_ERRORS = {
    2: "its process failed",
    3: "its answer did not arrive whole",
    5: "is no longer connected",
    7: "refused the app bundle: it has another release of fedseg than the hub",
    8: "its process was killed",
}
NO_ANSWER = "did not answer in time"
LATE = "came after the hub had given it up"
NOT_THERE = "is not connected, or no longer approves the study"
REFUSED_AGAIN_SECONDS = 300.0  # until a node that could not enrol is asked again
GONE = (
    2,
    3,
    5,
    8,
)  # Flower's codes of a node that was ended or out of reach, not of its answer
GONE_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Answer:
    """What one site said.

    Attributes:
        site: Its name.
        message: Its answer; None if nothing came in time.
        seconds: Since it was asked.
        late: Whether it answers a question that was given up.
    """

    site: str
    message: Message | None
    seconds: float
    late: bool = False


@final
class Sites:
    """The sites of one run.

    Attributes:
        study: What is trained.
        run: Identifier of the run.
        hash: SHA-256 of the study.
        table: All parameters of the study's network.
        roster: Whom the run may ask.
        enrolments: What each site said of itself, in the order of their names.
        refused: Reason by node, for every node that could not enrol.
    """

    def __init__(self, study: Study, run: str, table: Table, roster: Roster) -> None:
        self.study, self.run, self.table, self.roster = study, run, table, roster
        self.hash = study_hash(study)
        self.enrolments: dict[str, Enrolment] = {}
        self.refused: dict[str, str] = {}
        self.deadlines = Deadlines(roster, study.federation.answer_seconds)
        self._text = canonical_json(study)
        self._nodes: dict[str, int] = {}
        self._given_up: dict[str, int] = {}
        self._refused_until: dict[int, float] = {}
        self._pulls: Pulls | None = None

    def context(self, number: int) -> Context:
        """Return what every job of a round says first."""
        return Context(run=self.run, study=self._text, round=number)

    def enrol(self, grid: Grid) -> None:
        """Ask who they are, of all who may be asked and have not said so yet.

        Who does not fit the study is left out, with its reason.
        """
        names = self.roster.nodes(grid)
        now = time.monotonic()
        left_alone = {node for node, until in self._refused_until.items() if now < until}
        known = left_alone | set(self._nodes.values())
        job = protocol.pack(self.context(0))
        questions = {n: Message(job, n, protocol.ENROL) for n in names if n not in known}
        for heard in self._answers(grid, questions, names.get):
            if not heard.late:
                self._note(heard, names[heard.node])
        self.enrolments = dict(sorted(self.enrolments.items()))

    def _note(self, heard: Heard, name: str | None) -> None:
        """Take one node's answer to "who are you?"."""
        node = heard.node
        try:
            enrolment = value_of(Enrolment, heard.message)
            check_enrolment(enrolment, self.study, self.hash)
            if name not in (None, enrolment.site):
                raise UpdateRefusedError(f"calls itself {enrolment.site}, but is {name}")
            if name is None and enrolment.site in self._nodes:
                raise UpdateRefusedError(f"another node is called {enrolment.site} too")
        except UpdateRefusedError as error:
            self.refused[name or f"node {node}"] = str(error)
            gone = heard.message is not None and (
                heard.message.has_error() and heard.message.error.code in GONE
            )
            wait = GONE_AGAIN_SECONDS if gone else REFUSED_AGAIN_SECONDS
            self._refused_until[node] = time.monotonic() + wait
            emit(HUB, "site_refused", node=node, site=name, reason=str(error))
            return
        self.refused.pop(enrolment.site, None)
        self._nodes[enrolment.site] = node
        self.enrolments[enrolment.site] = enrolment
        cases = {m: a.train for m, a in enrolment.accounting.items()}
        emit(HUB, "site_enrolled", site=enrolment.site, cases=cases,
             annotated=enrolment.annotated)  # fmt: skip

    def present(self, grid: Grid) -> list[str]:
        """Return the enrolled sites that may be asked now."""
        if not self.roster.changes:
            return list(self.enrolments)
        there = {name for name in self.roster.nodes(grid).values() if name is not None}
        return [site for site in self.enrolments if site in there]

    def message(self, site: str, job: Any, arrays: ArrayRecord, kind: str) -> Message:
        """Address a job with its weights to a site; arrays are shared between messages."""
        return Message(protocol.pack(job, arrays), self._nodes[site], kind)

    def bare_message(self, site: str, job: Any, kind: str) -> Message:
        """Address a job without weights to a site."""
        return Message(protocol.pack(job), self._nodes[site], kind)

    def trained(self, site: str) -> list[str]:
        """Return the modalities that a site trains."""
        return [m for m, a in self.enrolments[site].accounting.items() if a.train]

    def own(self, site: str, arrays: ArrayRecord) -> tuple[ArrayRecord, dict[str, str]]:
        """Pick the parameters that a site uses, and their kinds."""
        accounting = self.enrolments[site].accounting
        modalities = [m for m, account in accounting.items() if account.usable]
        kinds = {
            name: parameter.kind
            for name, parameter in self.table.items()
            if is_used_by(parameter.kind, modalities)
        }
        return ArrayRecord(
            {kind: arrays[kind] for kind in dict.fromkeys(kinds.values())}
        ), kinds

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
        for heard in self._answers(grid, questions, self.site_of):
            site = self.site_of(heard.node)
            if site is not None:
                yield Answer(site, heard.message, heard.seconds, heard.late)

    def _answers(
        self,
        grid: Grid,
        questions: Mapping[int, Message],
        name_of: Callable[[int], str | None],
    ) -> Iterator[Heard]:
        """Ask with the deadlines of each site, or, in a simulation, one for all."""

        def overdue(node: int, seconds: float) -> bool:
            return self.deadlines.overdue(name_of(node) or "", seconds)

        deployed = self.roster.changes  # a simulated site works while it is asked
        if deployed and self._pulls is None:
            self._pulls = Pulls(grid)
        return answers(
            grid, questions, wait_seconds=self.study.federation.answer_seconds,
            overdue=overdue if deployed else None, given_up=self._given_up, pulls=self._pulls,
        )  # fmt: skip

    def values(
        self, grid: Grid, messages: Mapping[str, Message], kind: type[Any]
    ) -> Iterator[tuple[str, Any]]:
        """Ask, and yield the usable answers; the others are logged with their reason."""
        for answer in self.ask(grid, messages):
            if answer.late:
                emit(HUB, "answer_refused", site=answer.site, reason=LATE)
                continue
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
        code = message.error.code
        raise UpdateRefusedError(f"{FLOWER_ERRORS.get(code, 'failed')} (Flower's code {code})")
    content: RecordDict = message.content
    failure = protocol.unpack_failure(content)
    if failure is not None:
        raise UpdateRefusedError(f"{failure.code}: {failure.sentence}")
    return protocol.unpack(kind, content)


def arrays_of(model: Path) -> ArrayRecord:
    """Read a whole weights file as Flower's arrays, one for each kind of parameter."""
    kinds = {name: parameter.kind for name, parameter in table_of(model).items()}
    return protocol.pack_weights(read_tensors(model), kinds)
