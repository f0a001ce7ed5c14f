"""The desk of runs beside a SuperLink that is not there, and disks that refuse to be written."""

import errno
import json
import os
from types import SimpleNamespace

import pytest

from common.errors import StorageError
from common.study.study import study_hash
from deploy.supervise import runs, storage
from deploy.supervise.flower import FlowerRun
from deploy.supervise.hub_folder import HubSettings
from deploy.supervise.runs import MOST_CRASHES, RunDesk
from deploy.supervise.storage import check_writable
from server.registry import (
    ADMITTED,
    APPROVE,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
    DecisionRow,
    Registry,
    RunRow,
    SiteRow,
    now,
)
from tests.support.federations import small_study

STUDY = small_study()


class Flower:
    """A SuperLink whose runs end when a test says so."""

    def __init__(self):
        self.states = []

    def start(self, app, settings):
        self.states.append("running")
        return str(len(self.states))

    def runs(self):
        return {
            str(n): FlowerRun(name=str(n), state=state, details="")
            for n, state in enumerate(self.states, 1)
        }


class Desk:
    """A desk with one run of one site that is there, and a clock that waits for nobody."""

    def __init__(self, folder, monkeypatch):
        self.registry, self.flower, self.now = Registry(folder / "r.db"), Flower(), 1000.0
        self.registry.create()
        self.folder = folder / "run"
        (self.folder / "journal").mkdir(parents=True)
        (self.folder / "initial.safetensors").write_bytes(bytes(1000))
        hash_ = study_hash(STUDY)
        self.registry.put(SiteRow, {"name": "A"}, state=ADMITTED, ready=1, seen=now() + 1e6)
        key = {"site": "A", "hash": hash_}
        self.registry.put(DecisionRow, key, decision=APPROVE, decided=1.0)
        self.registry.put(
            RunRow, {"run": "r"}, hash=hash_, folder=str(self.folder), state=QUEUED,
            wanted=RUNNING, created=1.0,
        )  # fmt: skip
        hub = SimpleNamespace(
            registry=self.registry, flower=self.flower, app=folder / "app",
            settings=HubSettings(address="localhost:1443"),
        )  # fmt: skip
        monkeypatch.setattr(runs, "write_app", lambda _: None)
        monkeypatch.setattr(runs, "read_run", lambda _: SimpleNamespace(typed_study=STUDY))
        monkeypatch.setattr(runs.time, "monotonic", lambda: self.now)
        self.desk = RunDesk(hub)

    @property
    def row(self):
        return self.registry.run("r")

    def look(self, seconds=100.0):
        self.now += seconds
        self.desk.look()
        return self.row

    def end(self, **outcome):
        """End the ServerApp, with or without a reason."""
        self.flower.states[-1] = "finished:failed"
        if outcome:
            (self.folder / "outcome.json").write_text(json.dumps(outcome))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    return Desk(tmp_path, monkeypatch)


def refuse(monkeypatch, number):
    def write(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage, "_write_probe", write)


@pytest.mark.parametrize(
    ("decision", "words"),
    [("pause", "paused there: A"), ("withdraw", "withdrawn: A"), ("deny", "denied: A")],
)
def test_a_run_that_waits_for_sites_says_what_their_people_decided(desk, decision, words):
    key = {"site": "A", "hash": study_hash(STUDY)}
    desk.registry.put(DecisionRow, key, decision=decision, decided=2.0)

    row = desk.look()

    assert row.state == QUEUED
    assert row.sentence.startswith("waits for 1 more of 1 sites")
    assert row.sentence.endswith(words)


WORDS = {errno.ENOSPC: "disk is full", errno.EROFS: "cannot be written: Read-only file system"}


@pytest.mark.parametrize("number", WORDS, ids=["full", "read-only"])
def test_a_run_whose_folder_cannot_be_written_waits_says_so_and_goes_on(
    desk, monkeypatch, number
):
    assert desk.look().state == RUNNING
    desk.end()
    with monkeypatch.context() as patch:
        refuse(patch, number)
        for _ in range(3 * MOST_CRASHES):
            row = desk.look()
            assert row.state == PAUSED
            assert WORDS[number] in row.sentence
            assert str(desk.folder) not in row.sentence

    row = desk.look()

    assert (row.state, row.sentence, row.attempts) == (RUNNING, "", 2)


def test_a_run_that_waited_for_the_disk_says_what_to_do_and_not_where_it_failed(
    desk, monkeypatch
):
    desk.look()
    desk.end(state=PAUSED, sentence="/a/path: cannot be written")
    refuse(monkeypatch, errno.ENOSPC)

    assert "free space" in desk.look().sentence


def test_a_run_is_not_started_on_a_full_disk(desk, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: SimpleNamespace(free=500))

    assert desk.look().state == PAUSED
    assert desk.flower.states == []


def test_what_is_said_of_the_disk_is_written_down_once(desk, monkeypatch):
    refuse(monkeypatch, errno.ENOSPC)
    told = []
    monkeypatch.setattr(runs, "emit", lambda _, event, **fields: told.append(event))

    for _ in range(4):
        desk.look()

    assert told == ["run_state"]


def test_a_run_that_ends_again_and_again_without_a_reason_has_failed(desk):
    for _ in range(MOST_CRASHES):
        assert desk.look().state == RUNNING
        desk.end()
        desk.look()

    assert desk.row.state == FAILED
    assert "without a reason" in desk.row.sentence


def test_crashes_before_a_closed_round_do_not_count(desk):
    for number in range(1, 2 * MOST_CRASHES):
        assert desk.look().state == RUNNING
        (desk.folder / "journal" / f"round-{number:04d}.json").write_text("{}")
        desk.look()
        desk.end()
        assert desk.look().state == QUEUED


def test_waiting_for_sites_is_no_crash(desk):
    for _ in range(2 * MOST_CRASHES):
        assert desk.look().state == RUNNING
        desk.end(state=PAUSED, sentence="too few sites")
        assert desk.look().sentence == "too few sites"


def test_a_reason_that_nothing_mends_ends_the_run(desk):
    desk.look()
    desk.end(state=FAILED, sentence="the weights were changed")

    row = desk.look()

    assert (row.state, row.sentence) == (FAILED, "the weights were changed")


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "initial.safetensors").write_bytes(b"x")

    check_writable(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["initial.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")  # noqa: PTH110
def test_a_disk_that_is_really_full_is_noticed(tmp_path, monkeypatch):
    (tmp_path / f".probe.{os.getpid()}.part").symlink_to("/dev/full")

    with pytest.raises(StorageError, match="disk is full"):
        check_writable(tmp_path)
