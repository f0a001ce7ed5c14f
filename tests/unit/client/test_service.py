"""What the worker's service answers, and that it does nothing twice."""

import time
from dataclasses import replace

import pytest

from client import service as service_module
from client import worker as worker_module
from client.answers import KeptAnswers
from client.consent import Consent, Limits
from common.errors import ReportedError
from common.messages import ShareJob
from tests.support.federations import same_bits
from tests.support.jobs import jobs_of, moved, worker_of
from tests.support.worker_service import WAIT, equal, in_thread, pieces_of

JOBS = jobs_of()
JOB = JOBS.train(1)


def test_every_kind_of_job_is_answered_as_in_one_process(site, tmp_path, served, remote):
    plain = worker_of(site, tmp_path / "plain")
    expected = [
        plain.enrol(JOBS.context(0)),
        plain.train(JOBS.train(1)),
        plain.evaluate(JOBS.evaluate(1)),
        plain.train_alone(JOBS.alone()),
        plain.evaluate(JOBS.evaluate(1, "test")),
    ]

    with served():
        found = [
            remote.enrol(JOBS.context(0)),
            remote.train(JOBS.train(1)),
            remote.evaluate(JOBS.evaluate(1)),
            remote.train_alone(JOBS.alone()),
            remote.evaluate(JOBS.evaluate(1, "test")),
        ]

    assert equal(found[1], expected[1])
    for index in (0, 2, 3, 4):
        timeless = [
            replace(x[index], seconds=0.0) if index else x[index] for x in (found, expected)
        ]
        assert timeless[0] == timeless[1]


def test_arrays_of_many_pieces_arrive_whole(site, tmp_path, served, remote, monkeypatch):
    monkeypatch.setattr("client.remote.PIECE_BYTES", 1000)
    monkeypatch.setattr(service_module, "PIECE_BYTES", 1000)

    with served():
        found = remote.train(JOBS.train(1))

    assert equal(found, worker_of(site, tmp_path / "plain").train(JOBS.train(1)))


def test_an_error_arrives_as_its_code_and_sentence_alone(served, remote, monkeypatch):
    def failing(*_):
        raise OSError("/data/Mustermann^Erika/image.nii.gz cannot be read")

    monkeypatch.setattr(worker_module, "fit", failing)
    weights = moved(JOBS.weights, 0)
    weights.pop(next(iter(weights)))

    with served():
        with pytest.raises(ReportedError) as unknown:
            remote.train(JOBS.train(1))
        with pytest.raises(ReportedError) as known:
            remote.train(JOBS.train(1, weights))

    assert unknown.value.code == "Exception"
    assert "Mustermann" not in str(unknown.value)
    assert known.value.code == "IncompatibleWeightsError"


def test_a_refusal_arrives_with_its_reason_and_before_any_array_is_read(
    served, remote, tmp_path
):
    allowing_nothing = Consent(tmp_path / "consent")
    with served(consent=allowing_nothing), pytest.raises(ReportedError) as caught:
        remote.train(JOBS.train(1))

    assert caught.value.code == "ConsentError"
    assert caught.value.sentence == "the study waits for the site's approval"


# --- nothing is done twice -------------------------------------------------------------------


def test_the_same_job_asked_again_is_answered_without_training(served, remote, trainings):
    with served():
        first = remote.train(JOBS.train(1))
        again = remote.train(JOBS.train(1))
    with served():
        after_a_restart = remote.train(JOBS.train(1))

    assert trainings.count == 1
    assert again.report == first.report == after_a_restart.report
    assert same_bits(first.weights, after_a_restart.weights)


OTHERS = {
    "other weights": lambda: JOBS.train(1, moved(JOBS.weights, 0.1)),
    "another round": lambda: JOBS.train(2),
    "another run": lambda: replace(JOBS, run="run-2").train(1),
    "another study": lambda: replace(JOBS, study=replace(JOBS.study, seed=5)).train(1),
    "not validated": lambda: JOBS.train(1, validate=False),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_any_other_job_is_trained(served, remote, trainings, other):
    with served():
        remote.train(JOBS.train(1))
        remote.train(other())

    assert trainings.count == 2


def test_a_kept_answer_is_not_given_out_after_a_withdrawal(served, remote, tmp_path):
    consent = Consent(tmp_path / "consent")
    consent.decide(JOBS.hash, "approve", by="A", limits=Limits(minimum_cases=1))

    with served(consent=consent):
        remote.train(JOBS.train(1))
        consent.decide(JOBS.hash, "withdraw", by="A")
        with pytest.raises(ReportedError, match="withdrawn"):
            remote.train(JOBS.train(1))


def error_of(ask, job):
    with pytest.raises(ReportedError) as caught:
        ask(job)
    return caught.value


def test_an_answer_does_not_leave_after_a_withdrawal_in_mid_training(
    served, remote, tmp_path, trainings
):
    consent = Consent(tmp_path / "consent")
    consent.decide(JOBS.hash, "approve", by="A", limits=Limits(minimum_cases=1))
    trainings.go.clear()

    with served(consent=consent):
        thread, found = in_thread(lambda: error_of(remote.train, JOB))
        assert trainings.begun.wait(WAIT)
        consent.decide(JOBS.hash, "pause", by="A")
        trainings.go.set()
        thread.join()
        consent.decide(JOBS.hash, "resume", by="A")
        later = remote.train(JOB)

    assert found[0].sentence == "the site has paused the study"
    assert later.report.steps == 3
    assert trainings.count == 1


def test_a_damaged_answer_is_made_anew(served, remote, trainings):
    with served():
        first = remote.train(JOBS.train(1))
        arrays = served.folder / "answers" / "train.safetensors"
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x00")
        again = remote.train(JOBS.train(1))

    assert trainings.count == 2
    assert equal(first, again)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"job": 1}', "null", '{"job":"d","body":""}']
)
def test_an_answer_that_cannot_be_read_is_none(tmp_path, text):
    kept = KeptAnswers(tmp_path)
    (tmp_path / "train.json").write_text(text)

    assert kept.find("train", "d") is None


def test_a_messenger_that_dies_loses_nothing(served, remote, trainings):
    """Cancelled in mid-training, asked again: the same answer, trained once."""
    trainings.go.clear()
    job = JOBS.train(1)

    with served(), served.stub() as stub:
        call = stub.Do(pieces_of("train", job, job.weights))
        assert trainings.begun.wait(WAIT)
        call.cancel()
        thread, found = in_thread(lambda: remote.train(job))
        time.sleep(0.2)
        trainings.go.set()
        thread.join()

    assert trainings.count == 1
    assert found[0].report.steps == 3


def test_a_messenger_that_dies_before_its_turn_costs_no_training(
    served, remote, trainings, monkeypatch
):
    monkeypatch.setattr(service_module, "POLL_SECONDS", 0.05)
    trainings.go.clear()

    with served(), served.stub() as stub:
        thread, found = in_thread(lambda: remote.train(JOBS.train(1)))
        assert trainings.begun.wait(WAIT)
        job = JOBS.train(2)
        call = stub.Do(pieces_of("train", job, job.weights))
        time.sleep(0.2)
        call.cancel()
        time.sleep(0.3)
        trainings.go.set()
        thread.join()
        remote.enrol(JOBS.context(0))

    assert trainings.count == 1
    assert found[0].report.round == 1


def test_a_second_job_waits_for_the_first(served, remote, trainings):
    trainings.go.clear()

    with served():
        first, found = in_thread(lambda: remote.train(JOBS.train(1)))
        assert trainings.begun.wait(WAIT)
        second, later = in_thread(lambda: remote.train(JOBS.train(2)))
        time.sleep(0.3)
        waiting = trainings.count
        trainings.go.set()
        first.join()
        second.join()

    assert waiting == 1
    assert (found[0].report.round, later[0].report.round) == (1, 2)


def test_the_model_trained_alone_crosses_the_socket_whole(site, tmp_path, served, remote):
    plain = worker_of(site, tmp_path / "plain")
    plain.train_alone(JOBS.alone())
    expected = plain.share(ShareJob(context=JOBS.context(0)))

    with served():
        with pytest.raises(ReportedError) as none_yet:
            remote.share(ShareJob(context=JOBS.context(0)))
        remote.train_alone(JOBS.alone())
        found = remote.share(ShareJob(context=JOBS.context(0)))

    assert none_yet.value.code == "RefusedError"
    assert found.site == expected.site
    assert same_bits(found.weights, expected.weights)
    assert set(found.weights) == set(JOBS.weights)
