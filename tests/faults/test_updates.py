"""Rows 15 to 20: updates and answers that must not count, given to the hub's own checks."""

import json
import tempfile
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from client.worker import SiteWorker
from common import protocol
from common.bodies import body_of, value_of_body
from common.errors import UpdateRefusedError
from common.messages import Enrolment, Evaluation, Score, Update
from deploy.simulation.simulate import run_simulation
from server import conversation
from server.admission import Asked, check_update, expected_of
from server.conversation import answers
from server.enrolment import check_enrolment
from server.journal import Journal
from server.report.page import _environment
from server.tables import write_metrics
from tests.support import federations, studies
from tests.support.federations import built, phantom_sites
from tests.support.studies import enrolment, small_study

pytestmark = pytest.mark.slow

TABLE = studies.table(
    **{
        "w": ("shared", (2, 3)),
        "ct.norm": ("modality:ct", (3,)),
        "mr.norm": ("modality:mr", (3,)),
        "out#background": ("head:background", (1,)),
        "out#liver": ("head:liver", (1,)),
        "out#spleen": ("head:spleen", (1,)),
    }
)
SITE = enrolment("A", {"ct": 10}, annotated=("liver",))
ASKED = Asked(site="A", run="run-1", study=SITE.study, round=1, enrolment=SITE)


def honest(factor=1.0):
    return {
        n: np.full(p.shape, factor, np.float32) for n, p in expected_of(SITE, TABLE).items()
    }


def judged(update):
    """Return what the hub's admission says of an update that crossed the wire."""
    try:
        got = protocol.unpack(Update, protocol.pack(update))
        check_update(got, ASKED, TABLE)
    except UpdateRefusedError as error:
        return f"refused: {error}"
    return "accepted"


def with_array(name, array):
    return studies.update(weights={**honest(), name: array})


W = np.ones((2, 3), np.float32)
DENORMAL = np.full((2, 3), 1e-42, np.float32)
WEIGHTS = {
    "15.nan": ("one NaN in a tensor", with_array("w", W * np.nan), "w"),
    "15.infinity": ("one infinity in a tensor", with_array("w", np.full((2, 3), np.inf, np.float32)), "w"),
    "15.minus-infinity": ("one minus infinity", with_array("w", -W * np.inf), "w"),
    "15.denormals": ("every value of a tensor denormal", with_array("w", DENORMAL), "w"),
    "16.missing": ("a tensor left out", studies.update(weights={k: v for k, v in honest().items() if k != "w"}), "w"),
    "16.extra": ("a tensor too many", with_array("v", W), "v"),
    "16.renamed": ("a tensor renamed", studies.update(weights={("W" if k == "w" else k): v for k, v in honest().items()}), "w"),
    "16.other-modality": ("norms of a modality that the site lacks", with_array("mr.norm", W[0]), "mr.norm"),
    "16.other-head": ("head of a label that the site does not annotate", with_array("out#spleen", W[0, :1]), "out#spleen"),
    "16.row": ("shape (1, 3) for (2, 3), which would broadcast", with_array("w", W[:1]), "w"),
    "16.scalar": ("shape () for (2, 3), which would broadcast", with_array("w", np.float32(1).reshape(())), "w"),
    "16.transposed": ("shape (3, 2) for (2, 3)", with_array("w", np.ascontiguousarray(W.T)), "w"),
    "16.float64": ("float64 for float32", with_array("w", W.astype(np.float64)), "w"),
    "16.int32": ("int32 for float32", with_array("w", W.astype(np.int32)), "w"),
    "17.zero": ("0 cases", studies.update(weights=honest(), cases={"ct": 0}), "0 ct cases"),
    "17.negative": ("-1 cases", studies.update(weights=honest(), cases={"ct": -1}), "-1 ct cases"),
    "17.huge": ("2^63 cases", studies.update(weights=honest(), cases={"ct": 2**63}), ""),
    "17.more": ("11 cases, 10 declared", studies.update(weights=honest(), cases={"ct": 11}), "11 ct cases"),
    "17.other-modality": ("cases of a modality that was not declared", studies.update(weights=honest(), cases={"ct": 5, "mr": 5}), "modalities"),
    "17.no-steps": ("0 steps", studies.update(weights=honest(), steps=0), "0 steps"),
    "19.round": ("answer for round 2, asked was 1", studies.update(weights=honest(), round=2), "round"),
    "19.run": ("answer for another run", studies.update(weights=honest(), run="run-2"), "run"),
    "19.study": ("answer for another study", studies.update(weights=honest(), study="0" * 64), "study"),
    "19.site": ("answer in the name of another site", studies.update("B", weights=honest()), "site"),
}  # fmt: skip


@pytest.mark.parametrize("number", WEIGHTS)
def test_an_update_that_must_not_count_is_refused_by_name(matrix, number):
    done, update, name = WEIGHTS[number]
    with matrix(number, f"an update with: {done}", "refused, named") as case:
        case.happened = judged(update)
        assert case.happened.startswith("refused"), "an update that should be refused counts"
        assert name in case.happened, f"{name} is not named"


def test_an_honest_update_is_accepted():
    assert judged(studies.update(weights=honest())) == "accepted"


def test_a_float_for_a_count_is_refused(matrix):
    with matrix("17.float", "2.5 cases in the update's record", "refused, named") as case:
        plain = json.loads(body_of(studies.update(weights=honest())))
        plain["report"]["cases"] = {"ct": 2.5}
        with pytest.raises(UpdateRefusedError) as caught:
            value_of_body(Update, json.dumps(plain), honest())
        case.happened = f"refused: {caught.value}"
        assert "cases" in str(caught.value)


def forged(header, data=b""):
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    array = Array(
        dtype="uint8", shape=(len(content),), stype="fedseg.safetensors.1", data=content
    )
    records = protocol.pack(studies.update(weights={}))
    records["weights"] = ArrayRecord({"all": array})
    return records


def test_a_declared_size_is_refused_before_memory_is_taken(matrix):
    number = "16.declared"
    with matrix(
        number, "a tensor that declares 10^12 elements", "refused before memory is taken"
    ) as case:
        size = 4 * 10**12
        records = forged({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, size]}})
        tracemalloc.start()
        with pytest.raises(UpdateRefusedError) as caught:
            protocol.unpack(Update, records)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        case.happened = f"refused: {caught.value}; {peak / 1e6:.2f} MB taken"
        assert peak < 5e6


# --- row 18: against the others ------------------------------------------------------------


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    """Three sites with CT; one with MRI, which is alone with its modality."""
    return phantom_sites(tmp_path_factory.mktemp("sites"), modalities=("ct", "ct", "ct", "mr"))


def rounds_with(profiles, folder, monkeypatch, lie):
    """Run two rounds in which ct-3 answers what ``lie`` makes of its and ct-2's update."""
    honest, seen = SiteWorker.train, {}

    def train(worker, job):
        update = honest(worker, job)
        name = worker.profile.name
        if name == "ct-3":
            update = Update(report=update.report, weights=lie(update.weights, job, seen))
        seen[name, job.context.round] = update.weights
        return update

    monkeypatch.setattr(SiteWorker, "train", train)
    run = built(federations.small_study(rounds=2), profiles, folder)
    run_simulation(run)
    return Journal(run).closed_rounds()


def told(closed):
    """Return what was said of ct-3 in each round, and of whom else."""
    said = [r.refused.get("ct-3", "") or r.marks.get("ct-3", "") for r in closed]
    others = {s for r in closed for s in (*r.refused, *r.marks) if s != "ct-3"}
    return said, others


LIES = {
    "18.norm": (
        "1000 times its change",
        lambda own, job, seen: {n: job.weights[n] + 1000 * (a - job.weights[n]) for n, a in own.items()},
    ),
    "18.sign": (
        "the change with its sign flipped",
        lambda own, job, seen: {n: 2 * job.weights[n] - a for n, a in own.items()},
    ),
    "18.copied": (
        "another site's update, to the bit",
        lambda own, job, seen: seen["ct-2", job.context.round],
    ),
    "18.replayed": (
        "last round's weights sent again, relabelled as this round's",
        lambda own, job, seen: seen.get(("ct-3", 1), own),
    ),
}  # fmt: skip


@pytest.mark.parametrize("number", LIES)
def test_an_update_unlike_the_others_is_refused_or_flagged(
    matrix, profiles, tmp_path, monkeypatch, number
):
    done, lie = LIES[number]
    with matrix(
        number, f"a site sends {done}", "refused or flagged by the study's rule"
    ) as case:
        said, others = told(rounds_with(profiles, tmp_path / "run", monkeypatch, lie))
        case.happened = "; ".join(
            f"round {i + 1}: {text or 'accepted, nothing said'}" for i, text in enumerate(said)
        )
        assert said[-1], "accepted without a word"
        assert others <= ({"ct-2"} if number == "18.copied" else set())


def test_honest_sites_are_neither_refused_nor_flagged(matrix, profiles, tmp_path, monkeypatch):
    with matrix("18.honest", "all sites send what they trained", "nothing is said") as case:
        closed = rounds_with(
            profiles, tmp_path / "run", monkeypatch, lambda own, job, seen: own
        )
        case.happened = f"{[(r.refused, r.marks) for r in closed]}"
        assert not any(r.refused or r.marks for r in closed)


# --- row 19: when ------------------------------------------------------------------------------


class Answer:
    def __init__(self, question, text):
        self.metadata, self.reply_to_message_id, self.text = self, question, text


class Grid:
    """Gives what it is told to, at the times that it is told."""

    def __init__(self, *arrivals):
        self._arrivals, self._began = list(arrivals), time.monotonic()

    def push_messages(self, messages):
        return [f"id-{i}" for i, _ in enumerate(messages)]

    def pull_messages(self, names):
        now = time.monotonic() - self._began
        ready = [a for a in self._arrivals if a[0] <= now and a[1] in names]
        self._arrivals = [a for a in self._arrivals if a not in ready]
        return [Answer(name, text) for _, name, text in ready]


def test_of_two_answers_to_one_question_the_first_stands(matrix):
    with matrix(
        "19.second", "a second answer to a question that was answered", "the first stands"
    ) as case:
        grid = Grid((0.0, "id-0", "first"), (0.05, "id-0", "second"), (0.3, "id-1", "other"))
        heard = list(answers(grid, {5: "q", 6: "q"}, wait_seconds=5, given_up={}))
        texts = [(h.node, h.message.text) for h in heard]
        case.happened = f"heard {texts}"
        assert texts == [(5, "first"), (6, "other")]


def test_an_answer_after_the_deadline_is_told_from_one_in_time(matrix, monkeypatch):
    monkeypatch.setattr(conversation, "LONGEST_PAUSE_SECONDS", 0.02)
    with matrix(
        "19.deadline", "an answer after its site was given up", "marked late, not this round's"
    ) as case:
        given_up = {}
        grid = Grid((0.3, "id-0", "late"), (0.6, "id-1", "in time"))
        heard = list(
            answers(
                grid, {5: "q", 6: "q"}, wait_seconds=5, given_up=given_up,
                overdue=lambda node, seconds: node == 5 and seconds > 0.1,
            )
        )  # fmt: skip
        told = [(h.node, h.message and h.message.text, h.late) for h in heard]
        case.happened = f"heard {told}"
        assert told == [(5, None, False), (5, "late", True), (6, "in time", False)]


# --- row 20: bombs and names ---------------------------------------------------------------------


def config(text):
    return RecordDict({"fedseg": ConfigRecord({"body": text})})


def report_with(**changes):
    plain = json.loads(body_of(studies.update(weights=honest())))
    plain["report"].update(changes)
    return plain


HTML, ESCAPES, TRAVERSAL = (
    "<script>alert(1)</script>",
    "\x1b[2J\x1b[31mowned",
    "../../etc/passwd",
)
MILLION = {f"k{i}": 1 for i in range(10**6)}
BOMBS = {
    "20.nesting": ("a record nested 10^5 deep", lambda: protocol.unpack(Enrolment, config("[" * 10**5 + "]" * 10**5))),
    "20.keys": ("10^6 metric keys", lambda: value_of_body(Update, json.dumps(report_with(cases=MILLION)), honest())),
    "20.size": ("a record of 100 MB", lambda: protocol.unpack(Enrolment, config("x" * 10**8))),
    "20.bytes": ("bytes where text belongs", lambda: protocol.unpack(Enrolment, config(b"\x1f\x8b" + bytes(99)))),
    "20.list": ("a list where text belongs", lambda: protocol.unpack(Enrolment, config([1, 2]))),
    "20.records": ("an answer with no record", lambda: protocol.unpack(Enrolment, RecordDict({}))),
    "20.digits": ("a count of 10^5 digits", lambda: value_of_body(Update, json.dumps(report_with()).replace('"steps": 20', '"steps": ' + "9" * 10**5), honest())),
    "20.numpy": ("an array in Flower's own format (numpy's)", lambda: protocol.unpack(Update, RecordDict({"fedseg": protocol.pack(studies.update(weights={}))["fedseg"], "weights": ArrayRecord([np.ones(3)])}))),
    "20.two": ("the same tensor in two arrays", lambda: protocol.unpack(Update, twice())),
}  # fmt: skip


def twice():
    records = protocol.pack(studies.update(weights=honest()))
    (array,) = records["weights"].values()
    records["weights"] = ArrayRecord({"a": array, "b": array})
    return records


@pytest.mark.parametrize("number", BOMBS)
def test_a_bomb_in_a_record_is_refused_fast(matrix, number):
    done, act = BOMBS[number]
    with matrix(
        number, f"an answer with: {done}", "refused in seconds, with few words"
    ) as case:
        began = time.monotonic()
        try:
            found = act()
            if isinstance(found, Update):
                check_update(found, ASKED, TABLE)
            case.happened = "accepted"
        except UpdateRefusedError as error:
            said = str(error)
            case.happened = f"refused after {time.monotonic() - began:.1f} s: {said}"
        assert case.happened.startswith("refused"), "accepted"
        assert time.monotonic() - began < 20
        assert len(said) < 1000


def in_score(text):
    score = Score(modality=text, label="liver", metric="dice", value=0.5, cases=1)
    return lambda: check_update(studies.update(weights=honest(), scores=(score,)), ASKED, TABLE)


def as_metric(text):
    score = Score(modality="ct", label="liver", metric=text, value=0.5, cases=1)
    return lambda: check_update(studies.update(weights=honest(), scores=(score,)), ASKED, TABLE)


def as_site(text):
    return lambda: check_enrolment(replace(SITE, site=text), small_study(), SITE.study)


def as_skipped(text):
    accounting = {"ct": replace(SITE.accounting["ct"], declared=13, skipped={text: 1})}
    return lambda: check_enrolment(
        replace(SITE, accounting=accounting), small_study(), SITE.study
    )


PLACES = {"modality": in_score, "metric": as_metric, "site": as_site, "reason": as_skipped}
TEXTS = {"html": HTML, "escapes": ESCAPES, "path": TRAVERSAL}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_hostile_name_is_refused(matrix, place, text):
    number = f"20.{place}.{text}"
    with matrix(
        number, f"{TEXTS[text]!r} as the name of a {place}", "refused, or shown harmlessly"
    ) as case:
        try:
            PLACES[place](TEXTS[text])()
            case.happened = "accepted as it is"
        except UpdateRefusedError as error:
            case.happened = f"refused: {str(error)!r}"
        if case.happened.startswith("accepted"):
            shown = shown_by_the_hub(TEXTS[text])
            case.happened += "".join(f"; {where} {what!r}" for where, what in shown.items())
            assert "<script" not in shown["page"], "a script is on the page"
            for where in ("log", "table") if place == "metric" else ("log",):
                assert "\x1b" not in shown[where], f"an escape sequence is in the {where}"
        assert "\x1b" not in case.happened


def shown_by_the_hub(text):
    """Return a name as the hub's log, its page and its table of metrics show it."""
    score = Score(modality="ct", label="liver", metric=text, value=0.5, cases=1)
    evaluation = Evaluation(
        site="A", round=1, federated=(score,), alone=(), differences=(), skipped={}, seconds=1.0
    )
    with tempfile.TemporaryDirectory() as held:
        write_metrics(Path(held) / "metrics.csv", [], {"A": evaluation}, {})
        table = (Path(held) / "metrics.csv").read_text().splitlines()[1]
    page = _environment().from_string("{{ text }}").render(text=text)
    return {"log": json.dumps({"reason": text}, default=str), "page": page, "table": table}
