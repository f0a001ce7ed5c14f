"""A worker that was killed in mid-round ends with the bits of one that was not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from client import worker as worker_module
from client.training import fit
from common.errors import RunError
from common.study.schemes import SegAN, Supervised
from tests.support.federations import same_bits
from tests.support.jobs import jobs_of, moved, worker_of

EVERY_STEP = 1e-9
SUPERVISED = Supervised()


class Killed(BaseException):
    """What no handler catches."""


def killed_after(steps, monkeypatch):
    """Let the next local steps end after so many, as a kill would end them."""

    def interrupted(network, optimizer, plan, fitted, after_step):
        def then(so_far):
            after_step(so_far)
            if so_far.steps == steps:
                raise Killed

        return fit(network, optimizer, plan, fitted, then)

    monkeypatch.setattr(worker_module, "fit", interrupted)


def checkpoints(folder):
    return sorted(p.name for p in folder.rglob("*checkpoint-*"))


def without_times(update):
    return replace(update.report, seconds={})


STUDIES = {
    "adamw, dropout": {},
    "sgd, batch norm": {"optimizer": "sgd", "norm": "batch", "sharing": "local"},
    "fedprox": {"method": "{name: fedprox, mu: 0.1}"},
    "statistics stay": {"norm": "batch", "sharing": "statistics_local"},
    "critic": {"scheme": SegAN(width=4, layers=2)},
}


def jobs_with(steps=5, dropout=0.3, scheme=SUPERVISED, **changes):
    jobs = jobs_of(**changes)
    study = jobs.study
    training = replace(study.training, steps=steps, scheme=scheme)
    network = replace(study.network, dropout=dropout)
    return replace(jobs, study=replace(study, training=training, network=network))


@pytest.mark.parametrize("changes", STUDIES.values(), ids=STUDIES)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_killed_worker_goes_on_and_ends_with_the_same_bits(
    site, tmp_path, monkeypatch, changes, steps
):
    jobs = jobs_with(**changes)
    plain = worker_of(site, tmp_path / "plain")
    first = plain.train(jobs.train(1))
    job = jobs.train(2, moved({**jobs.weights, **first.weights}, 0.01))
    expected = plain.train(job)

    worker_of(site, tmp_path / "killed").train(jobs.train(1))
    with monkeypatch.context() as patch:
        killed_after(steps, patch)
        with pytest.raises(Killed):
            worker_of(site, tmp_path / "killed", seconds=EVERY_STEP, checkpoints=True).train(
                job
            )
    torch.rand(7)  # another process has another random state
    again = worker_of(site, tmp_path / "killed", seconds=EVERY_STEP, checkpoints=True)
    steps_done = []
    monkeypatch.setattr(
        worker_module,
        "fit",
        lambda n, o, p, fitted, after: (
            steps_done.append(fitted.steps) or fit(n, o, p, fitted, after)
        ),
    )
    found = again.train(job)

    assert steps_done == [steps]
    assert same_bits(found.weights, expected.weights)
    assert without_times(found) == without_times(expected)
    states = [
        (tmp_path / name / "run-1/federated/state-00002.safetensors").read_bytes()
        for name in ("plain", "killed")
    ]
    assert states[0] == states[1]
    assert not checkpoints(tmp_path / "killed")


def test_scores_are_not_measured_twice(site, tmp_path, monkeypatch):
    jobs = jobs_with()
    killed_after(2, monkeypatch)
    with pytest.raises(Killed):
        worker_of(site, tmp_path, seconds=EVERY_STEP, checkpoints=True).train(jobs.train(1))
    monkeypatch.setattr(worker_module, "fit", fit)
    monkeypatch.setattr(worker_module, "validate", lambda *_: pytest.fail("validated again"))

    found = worker_of(site, tmp_path, seconds=EVERY_STEP, checkpoints=True).train(jobs.train(1))

    assert found.report.scores


OTHERS = {
    "another round": lambda jobs: jobs.train(2),
    "other weights": lambda jobs: jobs.train(1, moved(jobs.weights, 0.1)),
    "another run": lambda jobs: replace(jobs, run="run-2").train(1),
    "another study": lambda jobs: replace(jobs, study=replace(jobs.study, seed=9)).train(1),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_checkpoint_is_of_no_use_to_another_job(site, tmp_path, monkeypatch, other):
    jobs = jobs_with()
    killed_after(3, monkeypatch)
    with pytest.raises(Killed):
        worker_of(site, tmp_path / "a", seconds=EVERY_STEP, checkpoints=True).train(
            jobs.train(1)
        )
    monkeypatch.setattr(worker_module, "fit", fit)

    job = other(jobs)
    found = worker_of(site, tmp_path / "a", seconds=EVERY_STEP, checkpoints=True).train(job)
    expected = worker_of(site, tmp_path / "b").train(job)

    assert same_bits(found.weights, expected.weights)
    assert not checkpoints(tmp_path / "a" / job.context.run)


DAMAGES = {
    "cut short": lambda data: data[:-100],
    "not a checkpoint": lambda _data: b"no checkpoint",
    "empty": lambda _data: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_left_aside(site, tmp_path, monkeypatch, damage):
    jobs = jobs_with()
    expected = worker_of(site, tmp_path / "plain").train(jobs.train(1))
    killed_after(2, monkeypatch)
    with pytest.raises(Killed):
        worker_of(site, tmp_path / "a", seconds=EVERY_STEP, checkpoints=True).train(
            jobs.train(1)
        )
    monkeypatch.setattr(worker_module, "fit", fit)
    (path,) = (tmp_path / "a").rglob("checkpoint-*")
    path.write_bytes(damage(path.read_bytes()))

    found = worker_of(site, tmp_path / "a", seconds=EVERY_STEP, checkpoints=True).train(
        jobs.train(1)
    )

    assert same_bits(found.weights, expected.weights)


def test_a_checkpoint_that_does_not_fit_fails_once(site, tmp_path, monkeypatch):
    from client import checkpoint

    jobs = jobs_with()
    killed_after(2, monkeypatch)
    with pytest.raises(Killed):
        worker_of(site, tmp_path, seconds=EVERY_STEP, checkpoints=True).train(jobs.train(1))
    monkeypatch.setattr(worker_module, "fit", fit)
    again = worker_of(site, tmp_path, seconds=EVERY_STEP, checkpoints=True)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "load_optimizer", lambda *_: {}["no such parameter"])
        with pytest.raises(KeyError):
            again.train(jobs.train(1))

    found = again.train(jobs.train(1))

    expected = worker_of(site, tmp_path / "plain").train(jobs.train(1))
    assert same_bits(found.weights, expected.weights)


def test_checkpoints_come_when_they_are_due_and_only_where_they_are_wanted(
    site, tmp_path, monkeypatch
):
    jobs = jobs_with()
    counts = {}
    for name, options in {
        "every step": {"seconds": EVERY_STEP, "checkpoints": True},
        "seldom": {"seconds": 3600.0, "checkpoints": True},
        "off in the profile": {"seconds": 0.0, "checkpoints": True},
        "off in a simulation": {"seconds": EVERY_STEP},
    }.items():
        with monkeypatch.context() as patch:
            killed_after(4, patch)
            with pytest.raises(Killed):
                worker_of(site, tmp_path / name, **options).train(jobs.train(1))
        counts[name] = len(checkpoints(tmp_path / name))

    assert counts == {
        "every step": 1,
        "seldom": 0,
        "off in the profile": 0,
        "off in a simulation": 0,
    }


def test_a_full_disk_costs_the_checkpoint_and_not_the_round(site, tmp_path, monkeypatch):
    from client import checkpoint

    def full(*_):
        raise RunError("no space left")

    jobs = jobs_with()
    monkeypatch.setattr(checkpoint, "write_tensors", full)

    found = worker_of(site, tmp_path, seconds=EVERY_STEP, checkpoints=True).train(jobs.train(1))

    assert found.report.steps == 5


def test_a_worker_that_is_told_to_end_leaves_a_checkpoint(site, tmp_path, monkeypatch):
    jobs = jobs_with()
    expected = worker_of(site, tmp_path / "plain").train(jobs.train(1))
    worker = worker_of(site, tmp_path / "a", seconds=3600.0, checkpoints=True)

    def stopping(network, optimizer, plan, fitted, after_step):
        worker.stop.set()
        return fit(network, optimizer, plan, fitted, after_step)

    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "fit", stopping)
        with pytest.raises(RunError, match="told to end"):
            worker.train(jobs.train(1))

    assert checkpoints(tmp_path / "a") == ["checkpoint-00001.safetensors"]
    found = worker_of(site, tmp_path / "a", checkpoints=True).train(jobs.train(1))
    assert same_bits(found.weights, expected.weights)


def test_a_round_that_failed_midway_does_not_spoil_the_next_try(site, tmp_path, monkeypatch):
    """The optimiser in memory is then of no round, and must be read again."""
    jobs = jobs_with()
    job = jobs.train(2, moved(jobs.weights, 0.01))
    plain = worker_of(site, tmp_path / "plain")
    plain.train(jobs.train(1))
    expected = plain.train(job)
    worker = worker_of(site, tmp_path / "a")
    worker.train(jobs.train(1))
    with monkeypatch.context() as patch:
        killed_after(2, patch)
        with pytest.raises(Killed):
            worker.train(job)

    found = worker.train(job)

    assert same_bits(found.weights, expected.weights)
    assert all(np.isfinite(a).all() for a in found.weights.values())
