"""Sites that fail, lie or are late; runs that are killed; folders in use."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from client import app as client_app
from client.worker import SiteWorker
from common.errors import QuorumError, RunInUseError
from common.messages import Update
from deploy.simulation.simulate import run_simulation
from server.journal import Journal, owning
from server.run import read_run, write_run
from tests.support.federations import built, last_weights, same_bits, small_study


def raising(update):
    raise OSError("/data/patients/Jane_Doe.nii.gz is gone")


def with_nan(update: Update):
    weights = {n: a.copy() for n, a in update.weights.items()}
    next(iter(weights.values())).reshape(-1)[0] = np.nan
    return replace(update, weights=weights)


def without_a_tensor(update: Update):
    return replace(update, weights=dict(list(update.weights.items())[1:]))


def with_minus_two_cases(update: Update):
    return replace(update, report=replace(update.report, cases={"ct": -2}))


def a_hundred_times_too_far(update: Update):
    return replace(update, weights={n: a + 100 for n, a in update.weights.items()})


FAULTS = {
    "raises": (raising, "Exception: the site failed"),
    "sends NaN": (with_nan, "holds NaN or infinity"),
    "leaves a tensor out": (without_a_tensor, "is missing"),
    "reports negative cases": (with_minus_two_cases, "reports -2 ct cases"),
    "moves far too far": (a_hundred_times_too_far, "times the median"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_bad_site_leaves_the_others_to_finish(sites, tmp_path, monkeypatch, fault):
    change, reason = fault
    honest = SiteWorker.train

    def train(self, job):
        update = honest(self, job)
        return (
            change(update) if self.profile.name == "ct-1" and job.context.round == 2 else update
        )

    monkeypatch.setattr(SiteWorker, "train", train)
    folder = built(small_study(), sites, tmp_path / "run")

    run_simulation(folder)

    second = Journal(folder).closed_rounds()[1]
    assert [a.report.site for a in second.accepted] == ["ct-2", "mr-1", "mr-2"]
    assert reason in second.refused["ct-1"]
    assert next(a.report.site for a in Journal(folder).closed_rounds()[2].accepted) == "ct-1"
    assert "Jane_Doe" not in (folder / "hub.jsonl").read_text() + json.dumps(second.refused)


def test_what_a_site_raises_stays_in_its_own_log(sites, tmp_path, monkeypatch):
    monkeypatch.setattr(SiteWorker, "train", lambda self, job: raising(None))
    folder = built(small_study(), sites, tmp_path / "run")

    with pytest.raises(QuorumError) as caught:
        run_simulation(folder)

    assert "Jane_Doe" not in str(caught.value)
    assert "Jane_Doe" in (folder / "sites" / "sites.jsonl").read_text()


def test_a_site_that_answers_late_is_left_out(sites, tmp_path, monkeypatch):
    honest = SiteWorker.train

    def train(self, job):
        if self.profile.name == "mr-2" and job.context.round == 1:
            time.sleep(4)
        return honest(self, job)

    monkeypatch.setattr(SiteWorker, "train", train)
    folder = built(small_study(rounds=2, seconds=3.5), sites, tmp_path / "run")

    run_simulation(folder)

    first, second = Journal(folder).closed_rounds()
    assert first.refused == {"mr-2": "did not answer in time"}
    assert [a.report.site for a in second.accepted] == ["ct-1", "ct-2", "mr-1", "mr-2"]


def test_a_modality_without_enough_sites_stops_the_run_and_keeps_what_was_accepted(
    sites, tmp_path, monkeypatch
):
    honest = SiteWorker.train

    def train(self, job):
        if self.profile.name.startswith("mr"):
            raising(None)
        return honest(self, job)

    monkeypatch.setattr(SiteWorker, "train", train)
    folder = built(small_study(), sites, tmp_path / "run")

    with pytest.raises(QuorumError, match="round 1: 0 sites with mr remain"):
        run_simulation(folder)

    assert set(Journal(folder).accepted(1)) == {"ct-1", "ct-2"}


def test_a_stopped_run_goes_on_without_asking_again_for_what_it_has(
    sites, tmp_path, monkeypatch
):
    plain = built(small_study(), sites, tmp_path / "plain")
    run_simulation(plain)
    honest, asked = SiteWorker.train, []

    def failing(self, job):
        return raising(None) if self.profile.name.startswith("mr") else honest(self, job)

    def recording(self, job):
        asked.append((self.profile.name, job.context.round))
        return honest(self, job)

    folder = built(small_study(), sites, tmp_path / "run")
    monkeypatch.setattr(SiteWorker, "train", failing)
    with pytest.raises(QuorumError):
        run_simulation(folder)
    client_app.worker_of.__globals__["_in_process"].cache_clear()
    monkeypatch.setattr(SiteWorker, "train", recording)
    run_simulation(folder)

    assert asked[:2] == [("mr-1", 1), ("mr-2", 1)]
    assert len(asked) == 10
    assert same_bits(last_weights(plain), last_weights(folder))


def test_two_runs_cannot_share_a_folder(sites, tmp_path):
    folder = built(small_study(), sites, tmp_path / "run")

    with owning(folder), pytest.raises(RunInUseError, match="another process"):
        run_simulation(folder)


def start(folder, *options):
    command = [
        sys.executable,
        "-m",
        "deploy.cli.main",
        "simulate",
        "--resume",
        str(folder),
        *options,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # a shell's background job ignores Ctrl-C, and its children would
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


KILLER = """
import os, signal, sys
import common.files, common.tensors
left = int(sys.argv[2])
count = 0
honest = common.tensors.TensorWriter.write
def write(self, array):
    global count
    count += 1
    if count == left:
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    honest(self, array)
common.tensors.TensorWriter.write = write
from pathlib import Path
from deploy.simulation.simulate import run_simulation
run_simulation(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def uninterrupted(sites, tmp_path_factory):
    folder = built(small_study(local="true"), sites, tmp_path_factory.mktemp("whole") / "run")
    run_simulation(folder)
    return folder


@pytest.mark.parametrize(
    "moments",
    [
        (1, 75, 160, 217),
        pytest.param((1, 20, 75, 130, 160, 190, 217, 150, 151, 100), marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_a_run_killed_at_many_moments_ends_with_the_same_bits(
    sites, tmp_path, uninterrupted, moments
):
    """Each start is killed in the middle of writing its n-th piece of a tensor file."""
    folder = built(small_study(local="true"), sites, tmp_path / "run")
    killed = 0
    for moment in moments:
        done = subprocess.run(
            [sys.executable, "-c", KILLER, str(folder), str(moment)],
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
        )
        killed += done.returncode == -signal.SIGKILL

    run_simulation(folder)

    assert killed == len(moments)
    assert same_bits(last_weights(uninterrupted), last_weights(folder))
    names = ("best", "final")
    for name in names:
        one, two = (
            json.loads((f / "journal" / f"{name}.json").read_text())["record"]
            for f in (uninterrupted, folder)
        )
        for evaluation in (*one.values(), *two.values()):
            if isinstance(evaluation, dict):
                evaluation.pop("seconds", None)
        assert one == two
    leftovers = [p for p in folder.rglob("*.part*") if p.parent.name == "models"]
    assert all(not p.name.endswith(".safetensors") for p in leftovers)


def test_ctrl_c_ends_with_one_line_and_the_run_goes_on(sites, tmp_path, uninterrupted):
    folder = built(small_study(local="true"), sites, tmp_path / "run")
    process = start(folder)
    until = time.monotonic() + 300
    while not (folder / "journal" / "round-0001.json").exists() and time.monotonic() < until:
        time.sleep(0.02)

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert b"fedseg simulate --resume" in output
    assert b"Traceback" not in output
    run_simulation(folder)
    assert same_bits(last_weights(uninterrupted), last_weights(folder))


def test_a_worker_process_that_dies_costs_its_site_the_round_and_no_more(sites, tmp_path):
    from deploy.simulation.processes import ProcessGrid

    folder = built(small_study(rounds=2), sites, tmp_path / "run")
    killed = []
    original = ProcessGrid.pull_messages

    def pull(self, ids):
        started = (folder / "journal" / "pooled.json").exists()
        if started and not killed:
            slot = next(s for s in self._all() if s.asked is not None)
            killed.append(slot.asked.metadata.dst_node_id)
            os.kill(slot._process.pid, signal.SIGKILL)
        return original(self, ids)

    ProcessGrid.pull_messages = pull
    try:
        run_simulation(folder, processes=2)
    finally:
        ProcessGrid.pull_messages = original

    first, second = Journal(folder).closed_rounds()
    assert list(first.refused.values()) == ["its process was killed (Flower's code 8)"]
    assert len(second.accepted) == 4


def test_a_finished_run_can_be_resumed_though_the_last_round_is_the_best(
    sites, tmp_path, monkeypatch
):
    """The best of the earlier rounds is gone by then, and must not be asked for."""
    import client.worker
    from common.messages import Score

    dice = iter([0.6, 0.5, 0.4, 0.9])

    def scored(network, cases, study, device):
        value = next(dice)
        return (Score(modality="ct", label="liver", metric="dice", value=value, cases=1),)

    monkeypatch.setattr(client.worker, "validate", scored)
    folder = built(small_study(rounds=4, each=0), sites[:1], tmp_path / "run")
    run_simulation(folder)
    best = (folder / "models" / "best.safetensors").read_bytes()

    run_simulation(folder)

    assert json.loads((folder / "journal" / "best.json").read_text())["record"]["best"] == {
        "round": 4,
        "value": 0.9,
    }
    assert (folder / "models" / "best.safetensors").read_bytes() == best


def test_a_site_refuses_weights_of_another_network_or_another_kind(sites, tmp_path):
    from dataclasses import replace as changed

    from common.parameters import save_weights, table_of

    folder = built(small_study(), sites, tmp_path / "run")
    path = folder / "initial.safetensors"
    table = table_of(path)
    name = next(n for n, p in table.items() if p.kind == "shared")
    table[name] = changed(table[name], kind="head:liver")
    from common.tensors import digest_of, read_tensors

    save_weights(path, read_tensors(path), table, {})
    write_run(folder, changed(read_run(folder), initial=digest_of(path)))

    with pytest.raises(
        QuorumError, match="IncompatibleWeightsError: the weights are not those"
    ):
        run_simulation(folder)
