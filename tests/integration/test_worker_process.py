"""A real worker process and real messenger processes, killed with SIGKILL in mid-training."""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from client.consent import Consent, Limits
from client.profile import load_profile
from client.remote import RemoteWorker
from common.audit import verify
from common.errors import ReportedError
from common.tensors import read_tensors
from tests.support.federations import phantom_sites, same_bits
from tests.support.jobs import jobs_of, moved, worker_of
from tests.support.studies import ROOT

PATIENT = "Mustermann^Erika"
CASE = "ct-1_001"  # of the phantoms; gets the patient's name
STEPS = 60
WAIT = 60.0
MESSENGER = """
import pickle, sys
from pathlib import Path
from client.link import worker_of
from common.bodies import value_of_body
from common.messages import TrainJob
from common.tensors import read_tensors, write_tensors
folder = Path(sys.argv[2])
job = value_of_body(TrainJob, (folder / "job.json").read_text(), read_tensors(folder / "job.safetensors"))
update = worker_of({"worker": sys.argv[1]}, {}).train(job)
assert "torch" not in sys.modules
write_tensors(folder / "update.safetensors", update.weights, {})
""".replace("import pickle, sys", "import sys")


def jobs_with_steps():
    jobs = jobs_of()
    training = replace(jobs.study.training, steps=STEPS, batch=4)
    network = replace(jobs.study.network, dropout=0.2, channels=(16, 32))
    return replace(jobs, study=replace(jobs.study, training=training, network=network))


JOBS = jobs_with_steps()


@contextlib.contextmanager
def process(*arguments):
    """Run a Python process; kill it if it is still there at the end."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def worker_process(profile, folder, path):
    return process(
        *("-m", "client.main_worker", "--profile", str(profile)),
        *("--folder", str(folder), "--socket", str(path)),
    )


def messenger_process(path, folder):
    return process("-c", MESSENGER, str(path), str(folder))


def wait_until(true, what):
    until = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.005)


def records_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def written_job(folder, job):
    from common.bodies import body_of
    from common.tensors import write_tensors

    folder.mkdir()
    (folder / "job.json").write_text(body_of(job))
    write_tensors(folder / "job.safetensors", job.weights, {})
    return folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A site whose folder and a case bear a patient's name; that case cannot be read."""
    folder = tmp_path_factory.mktemp("site") / PATIENT
    (profile,) = phantom_sites(folder, modalities=("ct",), cases=6)
    for path in folder.rglob(f"*{CASE}*"):
        path.rename(path.with_name(path.name.replace(CASE, PATIENT)))
    next(folder.rglob(f"imagesTr/{PATIENT}*")).write_bytes(b"broken")
    people = next(folder.rglob("cases.tsv"))
    people.write_text(people.read_text().replace(CASE, PATIENT))
    profile.write_text(profile.read_text() + "checkpoint_seconds: 0.02\n")
    return profile


@pytest.fixture
def allowed(tmp_path):
    """The folder of a site whose people approved the study."""
    limits = Limits(minimum_cases=1, rounds=2)
    Consent(tmp_path / "site" / "consent").decide(JOBS.hash, "approve", by="A", limits=limits)
    return tmp_path / "site"


def test_kills_of_messenger_and_worker_change_no_bit(planted, allowed, tmp_path):
    path = tmp_path / "w.sock"
    plain = worker_of(planted, tmp_path / "plain")
    first = plain.train(JOBS.train(1))
    second = JOBS.train(2, moved({**JOBS.weights, **first.weights}, 0.01))
    expected = plain.train(second)
    jobs = [
        written_job(tmp_path / "one", JOBS.train(1)),
        written_job(tmp_path / "two", second),
    ]
    checkpoint = allowed / "state" / "run-1" / "federated"

    with worker_process(planted, allowed, path) as worker:
        with messenger_process(path, jobs[0]) as messenger:
            wait_until((checkpoint / "checkpoint-00001.safetensors").exists, "no first round")
            messenger.send_signal(signal.SIGKILL)
            messenger.wait()
        with messenger_process(path, jobs[0]) as messenger:
            assert messenger.wait(WAIT) == 0
        with messenger_process(path, jobs[1]) as messenger:
            wait_until((checkpoint / "checkpoint-00002.safetensors").exists, "no second round")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            with worker_process(planted, allowed, path) as again:
                assert messenger.wait(WAIT) == 0
                again.send_signal(signal.SIGTERM)
                assert again.wait(WAIT) == 0

    assert same_bits(read_tensors(jobs[0] / "update.safetensors"), first.weights)
    assert same_bits(read_tensors(jobs[1] / "update.safetensors"), expected.weights)
    events = records_of(allowed / "log" / "worker.jsonl")
    trained = [e["round"] for e in events if e["event"] == "round_trained"]
    resumed = [e["step"] for e in events if e["event"] == "round_resumed"]
    assert trained == [1, 2]
    assert len(resumed) == 1
    assert 0 < resumed[0] < STEPS
    ledger = records_of(allowed / "consent" / "ledger.jsonl")
    assert [(r["event"], r["round"]) for r in ledger[1:]] == [
        *[("round_begun", 1), ("round_finished", 1)],
        *[("round_begun", 2), ("round_begun", 2), ("round_finished", 2)],
    ]
    assert verify(allowed / "consent" / "ledger.jsonl", None) == []
    assert not list(checkpoint.glob("*checkpoint-*"))
    assert not path.exists()


class Eavesdropper:
    """Passes bytes between a messenger and a worker, and keeps them all."""

    def __init__(self, near, far):
        self.heard, self._far = bytearray(), far
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(near))
        self._server.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self):
        while True:
            try:
                one, _ = self._server.accept()
            except OSError:
                return
            two = socket.socket(socket.AF_UNIX)
            two.connect(str(self._far))
            threading.Thread(target=self._pass_on, args=(one, two), daemon=True).start()

    def _pass_on(self, one, two):
        gone = contextlib.suppress(OSError)
        with gone, one, two, selectors.DefaultSelector() as either:
            either.register(one, selectors.EVENT_READ, two)
            either.register(two, selectors.EVENT_READ, one)
            while True:
                for key, _ in either.select():
                    data = key.fileobj.recv(65536)
                    if not data:
                        return
                    self.heard += data
                    key.data.sendall(data)

    def close(self):
        self._server.close()


def test_no_name_of_a_patient_crosses_the_socket(planted, allowed, tmp_path):
    profile = tmp_path / "profile.yaml"
    entry = load_profile(planted).datasets[0]
    link = tmp_path / PATIENT
    link.symlink_to(entry.folder)
    profile.write_text(
        json.dumps(
            {
                "name": "ct-1",
                "threads": 1,
                "datasets": [{"folder": str(link), "modality": "ct"}],
            }
        )
    )
    with worker_process(profile, allowed, tmp_path / "far.sock"):
        wait_until((tmp_path / "far.sock").exists, "no worker")
        ear = Eavesdropper(tmp_path / "near.sock", tmp_path / "far.sock")
        remote = RemoteWorker(tmp_path / "near.sock")
        with contextlib.closing(ear), contextlib.closing(remote):
            enrolment = remote.enrol(JOBS.context(0))
            update = remote.train(JOBS.train(1))
            remote.train_alone(JOBS.alone())
            remote.evaluate(JOBS.evaluate(1, "test"))
            link.unlink()  # the next session cannot be opened, and says so with the path
            another = replace(JOBS, run="run-2")
            with pytest.raises(ReportedError) as caught:
                remote.enrol(another.context(0))

    skipped = enrolment.accounting["ct"].skipped
    log = (allowed / "log" / "worker.jsonl").read_text()
    assert sum(skipped.values()) == sum(update.report.skipped["ct"].values()) == 1
    assert log.count(PATIENT) > 2
    assert (caught.value.code, caught.value.sentence) == (
        "ProfileError",
        "the site's profile does not fit the study",
    )
    assert b"run-1" in ear.heard
    for name in (PATIENT, "Mustermann", "Erika", "imagesTr", ".nii", str(tmp_path)):
        assert name.encode() not in ear.heard, name
