import json
from dataclasses import replace

import pytest

from client import session as session_module
from client import worker as worker_module
from client.consent import Consent, Limits
from client.report import check_accounting
from common.errors import ConsentError, RefusedError, RunError
from tests.support.federations import phantom_sites, same_bits
from tests.support.jobs import jobs_of, worker_of

JOBS = jobs_of()
FEW = Limits(minimum_cases=1)


@pytest.fixture
def consent(tmp_path):
    return Consent(tmp_path / "consent")


@pytest.fixture
def worker(site, tmp_path, consent):
    return worker_of(site, tmp_path / "state", consent=consent)


@pytest.fixture
def no_case_opened(monkeypatch):
    """Fail if anything reads a case, or so much as looks at a data set."""

    def opened(*_):
        pytest.fail("a case was opened")

    monkeypatch.setattr(session_module, "SiteCases", opened)
    monkeypatch.setattr(worker_module, "check_profile", opened)


ASKED = {
    "enrol": lambda worker, jobs: worker.enrol(jobs.context(0)),
    "train": lambda worker, jobs: worker.train(jobs.train(1)),
    "alone": lambda worker, jobs: worker.train_alone(jobs.alone()),
    "evaluate": lambda worker, jobs: worker.evaluate(jobs.evaluate(1)),
}


@pytest.mark.usefixtures("no_case_opened")
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize(
    ("actions", "reason"),
    [((), "not approved"), (("deny",), "denied"), (("approve", "pause"), "paused")],
    ids=["waiting", "denied", "paused"],
)
def test_what_is_not_allowed_opens_no_case(worker, consent, ask, actions, reason):
    for action in actions:
        consent.decide(JOBS.hash, action, by="A")

    with pytest.raises(ConsentError) as caught:
        ask(worker, JOBS)

    assert caught.value.reason == reason


@pytest.mark.usefixtures("no_case_opened")
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(until="2020-01-01"), "expired"),
        (Limits(outputs=("updates", "metrics", "statistics")), "affinities not permitted"),
        (Limits(outputs=()), "updates not permitted"),
    ],
    ids=["expired", "affinities", "nothing"],
)
def test_an_approval_that_does_not_reach_opens_no_case(worker, consent, limits, reason):
    consent.decide(JOBS.hash, "approve", by="A", limits=limits)

    with pytest.raises(ConsentError) as caught:
        worker.train(JOBS.train(1))

    assert caught.value.reason == reason


@pytest.mark.usefixtures("no_case_opened")
@pytest.mark.parametrize("run", ["../../elsewhere", "", "/etc", "a/b", "..", "x" * 65])
def test_a_run_whose_name_is_a_path_is_refused(worker, consent, run):
    consent.decide(JOBS.hash, "approve", by="A")

    with pytest.raises(RefusedError, match="is no run's name"):
        worker.enrol(replace(JOBS, run=run).context(0))


def test_a_site_with_too_few_cases_refuses_before_it_trains_or_tells(
    worker, consent, monkeypatch
):
    consent.decide(JOBS.hash, "approve", by="A", limits=Limits(minimum_cases=5))
    monkeypatch.setattr(worker_module, "fit", lambda *_: pytest.fail("trained"))

    for ask in ASKED.values():
        with pytest.raises(ConsentError) as caught:
            ask(worker, JOBS)
        assert caught.value.reason == "too few cases"


def test_rounds_are_written_down_and_end_when_they_are_used_up(worker, consent):
    consent.decide(JOBS.hash, "approve", by="A", limits=replace(FEW, rounds=1))
    update = worker.train(JOBS.train(1))
    worker.train(JOBS.train(1))

    with pytest.raises(ConsentError) as caught:
        worker.train(JOBS.train(2))

    assert caught.value.reason == "rounds used up"
    records = [json.loads(line) for line in consent.path.read_text().splitlines()]
    assert [r["event"] for r in records] == ["approve", *["round_begun", "round_finished"] * 2]
    assert records[1]["cases"] == update.report.cases
    assert records[2]["cases"] == update.report.used
    assert records[2]["bytes"] == sum(a.nbytes for a in update.weights.values())


def test_a_withdrawal_is_heeded_between_two_jobs(worker, consent):
    consent.decide(JOBS.hash, "approve", by="A", limits=FEW)
    worker.train(JOBS.train(1))
    consent.decide(JOBS.hash, "withdraw", by="A")

    with pytest.raises(ConsentError) as caught:
        worker.evaluate(JOBS.evaluate(1))

    assert caught.value.reason == "withdrawn"


def test_consent_changes_no_bit_of_what_is_trained(site, tmp_path, worker, consent):
    consent.decide(JOBS.hash, "approve", by="A", limits=FEW)

    found = worker.train(JOBS.train(1))
    expected = worker_of(site, tmp_path / "simulated").train(JOBS.train(1))

    assert same_bits(found.weights, expected.weights)
    assert replace(found.report, seconds={}) == replace(expected.report, seconds={})


def test_every_declared_case_is_used_skipped_or_not_needed(tmp_path):
    (profile,) = phantom_sites(tmp_path / "data", modalities=("ct",), cases=8)
    labels = sorted((tmp_path / "data").rglob("labelsTr/*"))
    labels[0].unlink()
    labels[3].write_bytes(b"not an image")

    report = worker_of(profile, tmp_path / "state").train(JOBS.train(1)).report

    skipped = sum(report.skipped["ct"].values())
    assert report.declared == {"ct": 8}
    assert skipped == 2
    assert report.used["ct"] + report.not_needed["ct"] == 6
    assert 1 <= report.used["ct"] <= report.cases["ct"]


def test_counts_that_do_not_add_up_are_a_fault(site, tmp_path):
    report = worker_of(site, tmp_path).train(JOBS.train(1)).report

    with pytest.raises(RunError, match="cases declared, but"):
        check_accounting(replace(report, declared={"ct": 9}))


def test_the_status_follows_the_work(site, tmp_path, monkeypatch):
    worker = worker_of(site, tmp_path)
    seen = []
    show = worker.status.show

    def showing(phase, **changes):
        show(phase, **changes)
        now = worker.status.now()
        seen.append((now.run, now.hash, now.round, now.phase, now.done, now.total))

    monkeypatch.setattr(worker.status, "show", showing)
    worker.train(JOBS.train(2))

    about = ("run-1", JOBS.hash, 2)
    assert seen[0] == (*about, "preparing", 0, 0)
    assert (*about, "validating", 0, 1) in seen
    assert seen[-1] == (*about, "training", 3, 3)


def test_a_withdrawal_ends_the_training_under_way(worker, consent, monkeypatch):
    monkeypatch.setattr(worker_module, "CONSENT_SECONDS", 0.0)
    consent.decide(JOBS.hash, "approve", by="A", limits=FEW)
    worker.enrol(JOBS.context(0))
    show = worker.status.show

    def withdraw_when_training_begins(phase, **told):
        if phase == "training" and consent.standing(JOBS.hash).state == "approved":
            consent.decide(JOBS.hash, "withdraw", by="A")
        show(phase, **told)

    monkeypatch.setattr(worker.status, "show", withdraw_when_training_begins)

    with pytest.raises(ConsentError) as caught:
        worker.train(JOBS.train(1))

    assert caught.value.reason == "withdrawn"
    events = [json.loads(line)["event"] for line in consent.path.read_text().splitlines()]
    assert "round_begun" in events
    assert "round_finished" not in events
