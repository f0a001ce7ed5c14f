import json
import shutil
import tempfile
from pathlib import Path

import grpc
import pytest

from common.errors import InputError, RunInUseError
from common.study.study import canonical_json, study_hash
from common.tensors import TensorFile, digest_of, read_tensors
from common.wire import control_pb2 as pb
from common.wire.control_pb2_grpc import ControlStub, EnrolmentStub
from deploy.simulation.build import build_run
from server.control import service
from server.control.enrolment import EnrolmentService, Invitations
from server.control.serve import build_server
from server.control.service import ControlService
from server.journal import ClosedRound, Journal
from server.registry import (
    ADMITTED,
    INVITED,
    REVOKED,
    REVOKING,
    DecisionRow,
    ProgressRow,
    Registry,
    RunRow,
    SiteRow,
    StudyRow,
)
from tests.support.federations import small_study

SECRET = b"sixteen bytes ok"


def matches(secret, site, stored):
    return bool(stored) and stored == f"{secret!r} {site}"


def code(request, node_key):
    if not request.startswith("request"):
        raise InputError("request: cannot be read")
    return f"{request}/{node_key}"


class Hub:
    """A control service on a socket, and calls to it as a proxy would pass them on."""

    def __init__(self, folder):
        self.now = 1000.0
        self.registry = Registry(folder / "registry.db")
        self.registry.create()
        self.socket = folder / "c.sock"
        clock = lambda: self.now  # noqa: E731
        enrolment = EnrolmentService(
            self.registry, Invitations(matches=matches, code=code), "ROOT", clock
        )
        control = ControlService(self.registry, 100.0, clock)
        self.server = build_server(self.socket, enrolment, control)
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix:{self.socket}")
        self.control, self.enrolment = ControlStub(self.channel), EnrolmentStub(self.channel)

    def close(self):
        self.channel.close()
        self.server.stop(0).wait()

    def invite(self, site, **columns):
        self.registry.put(
            SiteRow, {"name": site}, **{"state": INVITED, "expires": 2000.0,
            "secret_hash": f"{SECRET!r} {site}", **columns},
        )  # fmt: skip

    def admit(self, site, **columns):
        self.invite(site, **{"state": ADMITTED, "certificate_ends": 5000.0, **columns})

    def join(self, **fields):
        told = {"site": "A", "secret": SECRET, "request_pem": "request 1", "node_key": "node 1"}
        return self.enrolment.Join(pb.JoinRequest(**{**told, **fields}))

    def call(self, name, request, site="A", serial="01"):
        told = [("x-client-cn", site), ("x-client-serial", serial)] if site else []
        return getattr(self.control, name)(request, metadata=told, timeout=10)


@pytest.fixture
def hub():
    folder = Path(tempfile.mkdtemp())  # a socket's path must be short
    hub = Hub(folder)
    yield hub
    hub.close()
    shutil.rmtree(folder)


@pytest.fixture
def events(monkeypatch):
    found = []
    monkeypatch.setattr(
        service, "emit", lambda _, event, **fields: found.append((event, fields["site"]))
    )
    return found


def refused(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


# --- joining -------------------------------------------------------------------------------------


def test_an_invited_site_is_noted_with_its_keys_and_waits(hub):
    hub.invite("A")

    reply = hub.join(audit_key="ab" * 32)

    row = hub.registry.site("A")
    assert reply.state == "waiting"
    assert (row.state, row.code, row.audit_key) == ("waiting", "request 1/node 1", "ab" * 32)


def test_the_same_keys_may_ask_again_until_they_are_admitted(hub):
    hub.invite("A")
    hub.join()
    hub.registry.change(SiteRow, {"name": "A"}, state=ADMITTED, certificate_pem="CERTIFICATE")

    reply = hub.join()

    assert (reply.state, reply.certificate_pem, reply.root_pem) == (
        "admitted",
        "CERTIFICATE",
        "ROOT",
    )


def test_other_keys_cannot_use_the_invitation_a_second_time(hub):
    hub.invite("A")
    hub.join()

    reply = hub.join(node_key="node 2")

    assert reply.state == "refused"
    assert "somebody else" in reply.sentence
    assert hub.registry.site("A").code == "request 1/node 1"


@pytest.mark.parametrize(
    "change",
    [{"secret": b"another 16 bytes"}, {"site": "B"}, {"site": "../x"}, {"secret": b""}],
    ids=["secret", "site", "path", "empty"],
)
def test_a_wrong_invitation_is_refused_and_no_more_is_said(hub, change):
    hub.invite("A")

    reply = hub.join(**change)

    assert reply.state == "refused"
    assert reply.sentence == "the hub has no such invitation; ask the coordinator for a new one"
    assert hub.registry.site("A").state == INVITED


def test_an_invitation_expires(hub):
    hub.invite("A")
    hub.now = 2001.0

    assert "expired" in hub.join().sentence
    assert hub.registry.site("A").state == INVITED


def test_a_revoked_site_cannot_join_with_its_old_invitation(hub):
    hub.invite("A", state=REVOKED)

    assert "revoked" in hub.join().sentence


def test_guessing_is_slowed_down(hub):
    hub.invite("A")
    for _ in range(20):
        hub.join(secret=b"guess guess gues")

    assert refused(hub.join)[0] == "RESOURCE_EXHAUSTED"


def test_keys_that_cannot_be_admitted_are_told_so(hub):
    hub.invite("A")

    assert refused(lambda: hub.join(request_pem="nonsense")) == (
        "INVALID_ARGUMENT", "request: cannot be read",
    )  # fmt: skip


# --- who calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "serial", "expected"),
    [
        ("", "", "UNAUTHENTICATED"),
        ("stranger", "01", "PERMISSION_DENIED"),
        ("gone", "01", "PERMISSION_DENIED"),
        ("A", "", "PERMISSION_DENIED"),
    ],
)
def test_only_admitted_sites_are_answered(hub, site, serial, expected):
    hub.admit("A")
    hub.admit("gone", state=REVOKED)

    call = lambda: hub.call("Studies", pb.StudiesRequest(), site, serial)  # noqa: E731
    assert refused(call)[0] == expected


@pytest.mark.parametrize("state", [REVOKING, REVOKED])
def test_a_revoked_site_is_told_so_also_before_the_proxy_knows(hub, state):
    hub.admit("A", state=state)

    code, sentence = refused(lambda: hub.call("Studies", pb.StudiesRequest()))
    assert (code, sentence) == (
        "PERMISSION_DENIED", "the site was revoked; ask the coordinator",
    )  # fmt: skip


def test_one_site_that_calls_without_end_is_slowed_and_another_is_not(hub):
    hub.admit("A")
    hub.admit("B")
    for _ in range(60):
        hub.call("Studies", pb.StudiesRequest())

    assert refused(lambda: hub.call("Studies", pb.StudiesRequest()))[0] == "RESOURCE_EXHAUSTED"
    hub.call("Studies", pb.StudiesRequest(), "B")


def test_a_message_of_a_hundred_megabytes_is_refused(hub):
    hub.admit("A")

    request = pb.RenewRequest(request_pem="x" * 100_000_000)
    assert refused(lambda: hub.call("Renew", request))[0] == "RESOURCE_EXHAUSTED"


def test_a_second_service_on_the_socket_is_refused(hub):
    with pytest.raises(RunInUseError, match="another control service"):
        build_server(hub.socket, None, None)


def test_a_socket_that_a_dead_service_left_is_replaced(hub, tmp_path):
    hub.socket.with_name("old").write_text("")
    server = build_server(
        hub.socket.with_name("old"),
        EnrolmentService(hub.registry, Invitations(matches=matches, code=code), "ROOT"),
        ControlService(hub.registry, 1.0),
    )
    server.stop(0)


# --- studies and decisions ---------------------------------------------------------------------


def offer(hub, study=None):
    study = study or small_study()
    hub.registry.put(
        StudyRow, {"hash": study_hash(study)}, name=study.name, text=canonical_json(study),
        offered=1.0, round_bytes=7,
    )  # fmt: skip
    return study_hash(study)


def test_a_site_sees_what_is_on_offer(hub):
    hub.admit("A")
    hash_ = offer(hub)
    closed = offer(hub, small_study(rounds=9))
    hub.registry.change(StudyRow, {"hash": closed}, open=0)

    (seen,) = hub.call("Studies", pb.StudiesRequest()).offers

    assert (seen.hash, seen.round_bytes) == (hash_, 7)


def test_a_decision_is_the_sites_own_and_the_newest_counts(hub):
    hub.admit("A")
    hub.admit("B")
    hash_ = offer(hub)

    hub.call("Decide", pb.DecideRequest(hash=hash_, decision="approve"))
    hub.call("Decide", pb.DecideRequest(hash=hash_, decision="deny"), "B")

    assert [site.name for site in hub.registry.approved(hash_)] == ["A"]
    hub.call("Decide", pb.DecideRequest(hash=hash_, decision="withdraw"))
    assert hub.registry.approved(hash_) == []


@pytest.mark.parametrize(
    ("hash_", "decision"),
    [("f" * 64, "approve"), ("../../x", "approve"), ("", "approve"), (None, "perhaps")],
)
def test_a_decision_about_nothing_is_refused(hub, hash_, decision):
    hub.admit("A")
    held = offer(hub)

    request = pb.DecideRequest(hash=held if hash_ is None else hash_, decision=decision)
    assert refused(lambda: hub.call("Decide", request))[0] == "INVALID_ARGUMENT"
    assert hub.registry.rows(DecisionRow) == []


# --- reports -------------------------------------------------------------------------------------


def test_progress_is_noted_with_the_hubs_time_and_only_when_it_moves(hub):
    hub.admit("A")
    hub.registry.put(
        RunRow,
        {"run": "r1"},
        hash="h",
        folder="f",
        state="running",
        wanted="running",
        created=1.0,
    )
    report = pb.ReportRequest(
        ready=True,
        version="1",
        progress=[pb.Progress(run="r1", round=2, phase="training", done=3, total=9)],
    )

    hub.call("Report", report)
    hub.now = 1005.0
    hub.call("Report", report)
    row = hub.registry.row(ProgressRow, site="A", run="r1")
    assert (row.done, row.total, row.moved) == (3, 9, 1000.0)

    report.progress[0].done = 4
    hub.call("Report", report)
    assert hub.registry.row(ProgressRow, site="A", run="r1").moved == 1005.0
    assert hub.registry.site("A").seen == 1005.0


def test_progress_of_a_run_that_the_hub_does_not_have_is_dropped(hub):
    hub.admit("A")

    hub.call("Report", pb.ReportRequest(progress=[pb.Progress(run="../x", round=1)]))

    assert hub.registry.rows(ProgressRow) == []


@pytest.mark.parametrize(
    ("offset", "word"), [(86_400, "ahead of"), (-600, "behind"), (60, None)]
)
def test_a_clock_that_is_off_is_told(hub, offset, word):
    hub.admit("A")

    reply = hub.call("Report", pb.ReportRequest(clock=hub.now + offset))

    if word is None:
        assert list(reply.sentences) == []
    else:
        assert word in reply.sentences[0]
        assert "5 minutes" in reply.sentences[0]


def reports(hub, instances, site="A"):
    """Report once for each instance, five seconds apart; return the last answer's sentences."""
    for instance in instances:
        hub.now += 5.0
        reply = hub.call("Report", pb.ReportRequest(ready=True, instance=instance), site)
    return list(reply.sentences)


def test_two_machines_that_report_as_one_site_are_both_told(hub, events):
    hub.admit("A")
    hub.admit("B")
    reports(hub, "xyxy")

    for instance in "xy":
        (sentence,) = reports(hub, instance)
        assert "another machine reports as this site" in sentence
        assert "stop one of the two" in sentence
    assert reports(hub, "z", "B") == []
    assert hub.registry.site("A").doubled == hub.now - 5.0
    assert events.count(("second_machine", "A")) == 1


def test_a_site_that_was_started_again_is_told_nothing(hub, events):
    hub.admit("A")

    assert reports(hub, "xxxyyyzzz") == []
    assert hub.registry.site("A").doubled == 0
    assert events == []


def test_two_machines_are_written_down_again_only_after_an_end(hub, events):
    hub.admit("A")
    reports(hub, "xyxyxyxy" + "x" * 8 + "xyxyxyxy")

    assert events == [("second_machine", "A")] * 2


def test_a_site_is_told_to_renew_in_time(hub):
    hub.admit("A", certificate_ends=1101.0)
    assert not hub.call("Report", pb.ReportRequest()).renew

    hub.now = 1002.0
    assert hub.call("Report", pb.ReportRequest()).renew


def test_renewal_is_noted_and_handed_out(hub):
    hub.admit("A")
    request = pb.RenewRequest(request_pem="-----BEGIN CERTIFICATE REQUEST-----\nnew")

    assert hub.call("Renew", request).state == "waiting"
    hub.registry.change(
        SiteRow,
        {"name": "A"},
        request_pem=request.request_pem,
        certificate_pem="NEW",
        renewal_pem="",
    )

    reply = hub.call("Renew", request)
    assert (reply.state, reply.certificate_pem) == ("issued", "NEW")


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def run(hub, tmp_path):
    study = small_study()
    info = build_run(study, tmp_path / "run", {})
    account = {
        "declared": 5,
        "usable": 5,
        "skipped": {},
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    enrolment = {
        "site": "A", "study": info.hash, "accounting": {"ct": account},
        "annotated": ["liver"], "totals": {}, "version": "1",
    }  # fmt: skip
    Journal(tmp_path / "run").write(
        "enrolment",
        {"sites": {"A": enrolment, "B": {**enrolment, "site": "B"}}, "refused": {}},
    )
    journal = Journal(tmp_path / "run")
    shutil.copy(journal.model(0), journal.model(1))
    journal.keep_best(1)
    journal.close(
        ClosedRound(
            number=1, accepted=(), refused={}, digest=digest_of(journal.model(1)), seconds=1.0,
            fold_seconds=0.1, gap_seconds=0.1,
        )
    )  # fmt: skip
    hub.admit("A")
    hub.admit("C")
    hub.registry.put(
        RunRow, {"run": info.run}, hash=info.hash, folder=str(tmp_path / "run"), state="finished",
        wanted="running", created=1.0,
    )  # fmt: skip
    hub.registry.put(
        DecisionRow, {"site": "A", "hash": info.hash}, decision="approve", decided=1.0
    )
    return info


def fetched(hub, run, file, site="A"):
    return b"".join(
        c.data for c in hub.call("Fetch", pb.FetchRequest(run=run, file=file), site)
    )


def test_a_site_gets_its_own_results_and_nobody_elses(hub, run):
    (summary,) = hub.call("Runs", pb.RunsRequest()).runs
    assert list(summary.files) == ["results.json", "best.safetensors", "last.safetensors"]

    told = json.loads(fetched(hub, run.run, "results.json"))

    assert told["enrolment"]["site"] == "A"
    assert '"B"' not in json.dumps(told)


def test_a_site_gets_the_parameters_that_it_uses(hub, run, tmp_path):
    (tmp_path / "got.safetensors").write_bytes(fetched(hub, run.run, "best.safetensors"))

    whole = read_tensors(tmp_path / "run" / "initial.safetensors")
    got = read_tensors(tmp_path / "got.safetensors")
    with TensorFile(tmp_path / "run" / "initial.safetensors") as file:
        kinds = json.loads(file.metadata["kinds"])
    assert set(got) == {name for name in whole if kinds[name] != "modality:mr"}
    assert len(got) < len(whole)
    assert all((got[name] == whole[name]).all() for name in got)


@pytest.mark.parametrize(
    ("file", "site"),
    [
        ("../run.json", "A"),
        ("run.json", "A"),
        ("results.json", "C"),
        ("best.safetensors", "C"),
        ("", "A"),
    ],
)
def test_no_other_file_is_handed_out(hub, run, file, site):
    assert refused(lambda: fetched(hub, run.run, file, site))[0] == "INVALID_ARGUMENT"


def test_a_damaged_run_is_no_answer_and_no_story(hub, run, tmp_path):
    (tmp_path / "run" / "journal" / "enrolment.json").write_text("{")

    what, said = refused(lambda: fetched(hub, run.run, "results.json"))
    assert what == "UNAVAILABLE"
    assert str(tmp_path) not in said


@pytest.mark.parametrize("file", ["best.safetensors", "last.safetensors"])
def test_damaged_weights_are_not_handed_out(hub, run, tmp_path, file):
    journal = Journal(tmp_path / "run")
    model = journal.best_model if file.startswith("best") else journal.model(1)
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)

    assert refused(lambda: fetched(hub, run.run, file))[0] == "UNAVAILABLE"
