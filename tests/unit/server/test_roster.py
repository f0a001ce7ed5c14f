import time
from types import SimpleNamespace

import pytest

from server import roster as module
from server.registry import ADMITTED, REVOKED, DecisionRow, ProgressRow, Registry, SiteRow
from server.roster import ApprovedSites, Everybody


class Grid:
    def __init__(self, *nodes):
        self.nodes = nodes

    def get_node_ids(self):
        return self.nodes


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Pass no time; return how long was slept."""
    found = []
    monkeypatch.setattr(
        module, "time", SimpleNamespace(monotonic=lambda: sum(found), sleep=found.append)
    )
    return found


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry.db")
    registry.create()
    for i, name in enumerate(("A", "B", "C"), 1):
        registry.put(
            SiteRow, {"name": name}, state=ADMITTED, node_id=str(i), ready=1, seen=time.time()
        )
        registry.put(DecisionRow, {"site": name, "hash": "h"}, decision="approve", decided=1.0)
    return registry


def nodes(registry, *there):
    return dict(ApprovedSites(registry, "r", "h").nodes(Grid(*there)))


def test_a_simulation_asks_everybody():
    assert dict(Everybody().nodes(Grid(5, 3))) == {3: None, 5: None}
    assert Everybody().progress("A") is None


def test_approved_sites_are_asked_by_the_names_of_their_certificates(registry):
    assert nodes(registry, 1, 2, 3) == {1: "A", 2: "B", 3: "C"}


@pytest.mark.parametrize("decision", ["deny", "pause", "withdraw"])
def test_a_site_that_does_not_approve_is_never_asked(registry, decision):
    registry.put(DecisionRow, {"site": "B", "hash": "h"}, decision=decision, decided=2.0)

    assert nodes(registry, 1, 2, 3) == {1: "A", 3: "C"}


def test_approval_of_another_study_is_none_of_this_one(registry):
    assert dict(ApprovedSites(registry, "r", "another").nodes(Grid(1, 2, 3))) == {}


@pytest.mark.parametrize(
    "columns",
    [{"state": REVOKED}, {"ready": 0}, {"seen": time.time() - 3600}, {"node_id": ""}],
    ids=["revoked", "not ready", "not seen", "no node"],
)
def test_a_site_that_cannot_work_is_not_asked(registry, columns):
    registry.change(SiteRow, {"name": "B"}, **columns)

    assert nodes(registry, 1, 2, 3) == {1: "A", 3: "C"}


def test_a_node_that_is_not_connected_is_not_asked(registry):
    assert nodes(registry, 1) == {1: "A"}


def test_a_site_that_is_being_started_is_waited_for(registry, slept):
    grid = Grid(1, 3)

    def connect(_):
        slept.append(1.0)
        grid.nodes = (1, 2, 3)

    module.time.sleep = connect

    assert dict(ApprovedSites(registry, "r", "h").nodes(grid)) == {1: "A", 2: "B", 3: "C"}
    assert slept == [1.0]


def test_a_site_that_stays_away_is_waited_for_once_until_it_is_back(registry, slept):
    roster, grid = ApprovedSites(registry, "r", "h"), Grid(1, 3)

    def asked():
        before = sum(slept)
        return len(roster.nodes(grid)), sum(slept) - before > 0

    assert asked() == (2, True)
    assert asked() == (2, False)
    grid.nodes = (1, 2, 3)
    assert asked() == (3, False)
    grid.nodes = (1, 2)
    assert asked() == (2, True)


def test_a_stranger_that_is_connected_is_not_asked(registry):
    assert nodes(registry, 1, 99) == {1: "A"}


def progress(registry, run, moved):
    registry.put(
        ProgressRow, {"site": "A", "run": run}, round=1, phase="training", done=1, total=2,
        bytes_in=0, bytes_out=0, moved=moved,
    )  # fmt: skip


def test_work_for_another_run_is_no_silence(registry):
    roster = ApprovedSites(registry, "r", "h")
    assert roster.progress("A") is None
    progress(registry, "r", 10.0)
    progress(registry, "other", 50.0)

    held = roster.progress("A")
    assert (held.run, held.moved) == ("r", 50.0)
