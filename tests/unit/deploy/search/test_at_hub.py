"""Candidates at a hub whose runs end as a test says; nothing is trained and nobody waits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from client.failures import SENTENCES
from common.errors import RunError
from common.study.study import SearchTerms, approval_hash
from deploy.search import at_hub
from deploy.search.at_hub import AtHub, asked_of_sites
from deploy.search.evaluate import proxy
from deploy.search.search import Hopeless
from deploy.supervise.hub_folder import HubFolder, HubSettings
from server.registry import FAILED, FINISHED, PAUSED, RUNNING, STOPPED, RunRow, StudyRow
from server.run import read_run
from tests.support.federations import small_study
from tests.support.searches import Heard

TRIAL = proxy(small_study(), 4)
TERMS = SearchTerms(over="network", trials=2)
MEMORY = SENTENCES["TooLargeError"]


class Stage:
    """A hub at which each look of the trainer finds the next of some states of its run."""

    def __init__(self, folder, monkeypatch, terms=TERMS):
        self.hub = HubFolder.create(folder / "hub", HubSettings(address="localhost:1"))
        self.hub.registry.create()
        self.said, self.states, self.curve = Heard(), [], {}
        self.said.lines, self.said.waits = [], []
        self.said.say, self.said.doing = self.said.lines.append, self.said.waits.append
        self.trainer = AtHub(self.hub, TRIAL, terms, note="try", notice=self.said)
        monkeypatch.setattr(at_hub, "time", SimpleNamespace(
            sleep=self.next, monotonic=iter(range(10**6)).__next__))  # fmt: skip
        monkeypatch.setattr(at_hub, "curve_of", lambda journal: dict(self.curve))

    def next(self, _seconds):
        state, sentence, curve = self.states.pop(0)
        self.curve = curve
        self.hub.registry.change(RunRow, {"run": self.run}, state=state, sentence=sentence)

    @property
    def run(self):
        return self.rows[-1].run

    @property
    def rows(self):
        return self.hub.registry.rows(RunRow)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    return Stage(tmp_path, monkeypatch)


def test_a_candidate_is_a_run_under_the_searchs_approval_and_every_round_is_heard_in_order(
    stage,
):
    curve = {"1": 0.1, "2": 0.2, "3": 0.3}
    stage.states = [
        (PAUSED, "waits for 2 more of 2 sites", {}),
        (RUNNING, "", {"1": 0.1}),
        (FINISHED, "", curve),
    ]
    heard = []

    folder = stage.trainer.train(TRIAL, 1, heard.append)

    assert heard == [{"1": 0.1}, {"1": 0.1, "2": 0.2}, curve]
    assert folder == stage.trainer.folder(TRIAL, 1)
    held = read_run(folder).typed_study
    assert held == replace(TRIAL, search=TERMS)
    offered = stage.hub.registry.row(StudyRow, open=1)
    assert {offered.hash, stage.rows[0].hash} == {approval_hash(held)}
    assert (offered.round_bytes, offered.name) == (0, "small (search)")
    assert any("waits for 2 more" in words for words in stage.said.waits)
    assert any(offered.hash in words for words in stage.said.lines)
    stage.trainer.close()
    assert not stage.hub.registry.rows(StudyRow, open=1)


def test_a_candidate_that_has_a_run_goes_on_with_it(stage):
    stage.states = [(FINISHED, "", {})] * 2
    first = stage.trainer.train(TRIAL, 1, lambda _: None)

    assert stage.trainer.train(TRIAL, 1, lambda _: None) == first
    assert len(stage.rows) == 1
    other = replace(TRIAL, network=replace(TRIAL.network, channels=(4, 16)))
    assert stage.trainer.train(other, 2, lambda _: None) != first
    assert len({row.hash for row in stage.rows}) == 1
    assert len(stage.said.lines) == 2  # what to approve is said once


def test_a_hopeless_candidate_is_stopped_at_the_hub(stage):
    stage.states = [(RUNNING, "", {"1": 0.0}), (RUNNING, "", {"1": 0.0}), (STOPPED, "", {})]

    def heard(_curve):
        raise Hopeless("too low")

    with pytest.raises(Hopeless, match="too low"):
        stage.trainer.train(TRIAL, 1, heard)
    assert stage.rows[0].wanted == STOPPED
    assert not stage.states


def test_a_candidate_that_no_site_can_hold_is_stopped_and_says_why(stage):
    sentence = f"round 1: 1 sites remain, the study needs 2\n  mr-1: {MEMORY}"
    stage.states = [(PAUSED, sentence, {}), (STOPPED, "by the coordinator", {})]

    with pytest.raises(RunError, match="mr-1: a training step does not fit the memory"):
        stage.trainer.train(TRIAL, 1, lambda _: None)
    assert stage.rows[0].wanted == STOPPED


@pytest.mark.parametrize("state", [FAILED, STOPPED])
def test_a_run_that_ended_otherwise_is_a_failed_trial(stage, state):
    stage.states = [(state, "as somebody wished", {})]

    with pytest.raises(RunError, match=f"{state}: as somebody wished"):
        stage.trainer.train(TRIAL, 1, lambda _: None)


def test_a_hub_that_does_not_stop_a_run_is_told_to_the_coordinator(stage):
    stage.states = [(PAUSED, MEMORY, {}), *[(PAUSED, MEMORY, {})] * 200]

    with pytest.raises(RunError, match="is fedseg hub serve running"):
        stage.trainer.train(TRIAL, 1, lambda _: None)


def test_a_run_that_is_gone_is_told(stage):
    with pytest.raises(RunError, match="trial 3: the hub no longer has its run"):
        stage.trainer.folder(TRIAL, 3)


def test_a_search_for_a_loss_tells_the_bytes_of_a_round(tmp_path, monkeypatch):
    stage = Stage(tmp_path, monkeypatch, SearchTerms(over="loss", trials=2))
    stage.states = [(FINISHED, "", {})]

    folder = stage.trainer.train(TRIAL, 1, lambda _: None)

    size = (folder / "initial.safetensors").stat().st_size
    told = stage.hub.registry.row(StudyRow, open=1).round_bytes
    assert 0 < told < size


def test_only_what_a_search_is_over_may_differ_under_its_approval():
    network = replace(TRIAL, network=replace(TRIAL.network, channels=(4, 16)))
    for over, same in (("network", True), ("both", True), ("loss", False)):
        terms = SearchTerms(over=over)
        one, two = (approval_hash(asked_of_sites(s, terms)) for s in (TRIAL, network))
        assert (one == two) is same
