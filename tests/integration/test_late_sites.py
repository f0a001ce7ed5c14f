"""Sites that come late, go, come back or join a run that is under way: a hub's own loop."""

import json
import logging
import time

import pytest
from flwr.serverapp import Grid

from client.app import app as client_app
from client.link import SEPARATOR
from common.errors import QuorumError
from common.tensors import read_tensors
from deploy.simulation.inline import InlineGrid
from server import strategy
from server.journal import Journal
from server.registry import ProgressRow
from server.run import read_run
from server.strategy import RoundStrategy
from tests.support.federations import built, small_study

NAMES = {2: "ct-1", 3: "ct-2", 4: "mr-1", 5: "mr-2"}


class Roster:
    """Everybody approved; who is there, and who moves, is what the test says."""

    changes = True

    def __init__(self, away=lambda _: (), silent=()):
        self.away, self.silent, self.asked = away, silent, 0

    def nodes(self, grid):
        self.asked += 1
        gone = self.away(self.asked)
        return {n: name for n, name in NAMES.items() if name not in gone}

    def progress(self, site):
        if site in self.silent:
            return None
        return ProgressRow(site=site, run="r", round=1, phase="training", done=1, total=2,
                           bytes_in=0, bytes_out=0, moved=time.time())  # fmt: skip


class SlowGrid(Grid):
    """An inline grid on which one node's answers to some jobs wait until later jobs are out.

    Args:
        inner: The grid that does the work.
        node: Whose answers.
        held: Which of its train jobs (counted from 1), and with which later one they come.
    """

    def __init__(self, inner, node, held):
        self._inner, self._node, self._held = inner, node, held
        self._jobs, self._kept, self._open = 0, {}, {}

    def set_run(self, run):
        self._inner.set_run(run)

    @property
    def run(self):
        return self._inner.run

    def create_message(self, *args, **keywords):
        return self._inner.create_message(*args, **keywords)

    def get_node_ids(self):
        return self._inner.get_node_ids()

    def push_messages(self, messages):
        messages = list(messages)
        names = list(self._inner.push_messages(messages))
        if messages and messages[0].metadata.message_type == "train":
            self._jobs += 1
        for name, message in zip(names, messages, strict=True):
            mine = message.metadata.dst_node_id == self._node
            if mine and message.metadata.message_type == "train" and self._jobs in self._held:
                (self._kept[name],) = self._inner.pull_messages([name])
                self._open[name] = self._held[self._jobs]
        return names

    def pull_messages(self, names):
        names = list(names)
        for name in names:
            if name in self._kept and self._jobs >= self._open[name]:
                return [self._kept.pop(name)]
        return self._inner.pull_messages([name for name in names if name not in self._kept])

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(strategy, "RETRY_SECONDS", 0.01)


def take(study, sites, folder, roster, wrap=lambda grid: grid):
    """Run a study with the hub's own loop; return the journal."""
    built(study, sites, folder)
    settings = {"run": str(folder), "sites": SEPARATOR.join(map(str, sites)),
                "workspace": str(folder / "sites")}  # fmt: skip
    grid = wrap(InlineGrid(client_app, len(sites), settings))
    info = read_run(folder)
    RoundStrategy(Journal(folder), info.typed_study, info.run, roster).start(grid)
    return Journal(folder)


def names(closed):
    return [accepted.report.site for accepted in closed.accepted]


def test_a_late_update_is_refused_by_name_and_the_site_is_asked_again(sites, tmp_path, caplog):
    study = small_study(seconds=2.0)
    roster = Roster(silent=("ct-1",))
    with caplog.at_level(logging.INFO, "fedseg.hub"):
        logging.getLogger("fedseg.hub").propagate = True
        journal = take(study, sites, tmp_path / "run", roster, lambda g: SlowGrid(g, 2, {2: 3}))

    rounds = journal.closed_rounds()
    assert names(rounds[1]) == ["ct-2", "mr-1", "mr-2"]
    assert rounds[1].refused == {"ct-1": "did not answer in time"}
    assert names(rounds[2]) == ["ct-1", "ct-2", "mr-1", "mr-2"]
    assert [a.staleness for a in rounds[2].accepted] == [0, 0, 0, 0]
    told = [r.fields for r in caplog.records if r.message == "update_refused"]
    assert any("it is of round 2" in str(f.get("reason")) for f in told)


def test_a_late_update_is_folded_with_its_staleness_where_the_study_says_so(sites, tmp_path):
    study = small_study(seconds=2.0, method="fedavg, late: fold")
    # in round 3 the site's own answer never comes, but that of round 2 does
    journal = take(
        study, sites, tmp_path / "run", Roster(silent=("ct-1",)),
        lambda g: SlowGrid(g, 2, {2: 3, 3: 99}),
    )  # fmt: skip

    third = journal.closed_rounds()[2]
    late = next(a for a in third.accepted if a.report.site == "ct-1")
    assert (late.report.round, late.staleness, late.report.scores) == (2, 1, ())
    assert third.refused == {}


def test_a_site_that_goes_is_left_out_and_comes_back(sites, tmp_path):
    roster = Roster(away=lambda asked: ("mr-2",) if asked in (4, 5) else ())

    journal = take(small_study(), sites, tmp_path / "run", roster)

    took_part = [names(closed) for closed in journal.closed_rounds()]
    assert sum("mr-2" in sites_ for sites_ in took_part) == 2
    refused = next(c.refused for c in journal.closed_rounds() if "mr-2" not in names(c))
    assert "not connected" in refused["mr-2"]


def test_a_site_that_approves_later_joins_the_run(sites, tmp_path):
    roster = Roster(away=lambda asked: ("ct-2",) if asked <= 3 else ())

    journal = take(small_study(), sites, tmp_path / "run", roster)

    took_part = [names(closed) for closed in journal.closed_rounds()]
    assert "ct-2" not in took_part[0]
    assert "ct-2" in took_part[2]
    assert json.loads((tmp_path / "run/journal/pooled.json").read_text())["record"][
        "statistics"
    ]["ct"]


def test_a_round_below_quorum_is_tried_again_and_keeps_what_it_has(sites, tmp_path):
    # both MR sites are away when round 1 is asked, and back when it is tried again
    roster = Roster(away=lambda asked: ("mr-1", "mr-2") if asked == 3 else ())

    journal = take(small_study(rounds=1), sites, tmp_path / "run", roster)

    (closed,) = journal.closed_rounds()
    assert names(closed) == ["ct-1", "ct-2", "mr-1", "mr-2"]
    assert closed.refused == {}


def test_after_the_retries_the_run_says_what_it_waits_for_and_goes_on_later(sites, tmp_path):
    folder = tmp_path / "run"
    study = small_study(rounds=1)
    roster = Roster(away=lambda asked: ("mr-1", "mr-2") if asked >= 3 else ())
    with pytest.raises(QuorumError, match="0 sites with mr remain, the study needs 1"):
        take(study, sites, folder, roster)
    held = sorted(p.name for p in (folder / "journal/round-0001").glob("*.safetensors"))
    assert held == ["ct-1.safetensors", "ct-2.safetensors"]
    before = read_tensors(folder / "journal/round-0001/ct-1.safetensors")

    info = read_run(folder)
    settings = {"run": str(folder), "sites": SEPARATOR.join(map(str, sites)),
                "workspace": str(folder / "sites")}  # fmt: skip
    asked = []
    grid = InlineGrid(client_app, len(sites), settings)
    push = grid.push_messages
    grid.push_messages = lambda m: push([asked.append(x.metadata) or x for x in m])
    RoundStrategy(Journal(folder), info.typed_study, info.run, Roster()).start(grid)

    trained = [NAMES[m.dst_node_id] for m in asked if m.message_type == "train"]
    assert trained == ["mr-1", "mr-2"]
    assert set(before) <= set(read_tensors(folder / "initial.safetensors"))
    assert names(Journal(folder).closed_rounds()[0]) == ["ct-1", "ct-2", "mr-1", "mr-2"]
