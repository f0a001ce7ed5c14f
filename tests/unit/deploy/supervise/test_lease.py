"""A node that comes back after it was killed, and one that must not take another's place."""

import json
import shutil
from types import SimpleNamespace
from typing import ClassVar

import pytest

from deploy.supervise import lease as module
from deploy.supervise.lease import Lease, give_back_leases


def fleet():
    """Return a client of a Flower that knows one node, with what it was asked."""

    class Client:
        asked: ClassVar = []
        online = False

        def ActivateNode(self, request):  # noqa: N802 - as Flower calls it
            self.asked.append("activate")
            if Client.online:
                raise RuntimeError("Failed to activate SuperNode.")
            Client.online = True
            return SimpleNamespace(node_id=2**63 + 7)

        def DeactivateNode(self, request):  # noqa: N802
            self.asked.append(f"deactivate {request.node_id}")
            if not Client.online:
                raise RuntimeError("is not online")
            Client.online = False

    return Client


class Machine:
    """Lives of a node on one machine, each a process of its own."""

    def __init__(self, flower):
        self._flower, self._held = flower, []

    def start(self, home):
        """Begin a life; return its client of Flower."""
        lease = Lease(home)
        self._held.append(lease)
        client = type("Life", (self._flower,), {})
        give_back_leases(client, lease, lambda node_id: SimpleNamespace(node_id=node_id))
        return client()

    def kill(self):
        """End the newest life without a word."""
        lock = self._held.pop()._lock
        if lock is not None:
            lock.close()


@pytest.fixture
def slept(monkeypatch):
    found = []
    monkeypatch.setattr(module.time, "sleep", found.append)
    return found


@pytest.fixture
def flower():
    return fleet()


@pytest.fixture
def machine(flower, slept):
    machine = Machine(flower)
    yield machine
    while machine._held:
        machine.kill()


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "node"
    folder.mkdir()
    return folder


def test_a_node_that_was_killed_is_back_at_once(machine, flower, home, slept):
    machine.start(home).ActivateNode(None)
    machine.kill()

    machine.start(home).ActivateNode(None)

    assert flower.asked == ["activate", f"deactivate {2**63 + 7}", "activate"]
    assert slept == [module.GAP_SECONDS]


def test_a_node_that_ended_properly_leaves_nothing_behind(machine, flower, home, slept):
    life = machine.start(home)
    node = life.ActivateNode(None).node_id
    life.DeactivateNode(SimpleNamespace(node_id=node))
    machine.kill()

    machine.start(home).ActivateNode(None)

    assert flower.asked == ["activate", f"deactivate {node}", "activate"]
    assert slept == []


def test_a_copy_of_the_folder_does_not_cut_the_original_off(machine, flower, home, tmp_path):
    machine.start(home).ActivateNode(None)
    shutil.copytree(home, tmp_path / "copy")

    with pytest.raises(RuntimeError, match="Failed to activate"):
        machine.start(tmp_path / "copy").ActivateNode(None)

    assert flower.online
    assert flower.asked == ["activate", "activate"]


def test_an_image_of_the_machine_does_not_cut_the_original_off(
    machine, flower, home, monkeypatch
):
    machine.start(home).ActivateNode(None)
    machine.kill()
    started = module.machine_started()
    monkeypatch.setattr(module, "machine_started", lambda: started + 60.0)

    with pytest.raises(RuntimeError, match="Failed to activate"):
        machine.start(home).ActivateNode(None)

    assert flower.online


def test_a_second_process_in_the_folder_does_not_cut_the_first_off(machine, flower, home):
    machine.start(home).ActivateNode(None)

    with pytest.raises(RuntimeError, match="Failed to activate"):
        machine.start(home).ActivateNode(None)

    assert flower.online
    assert json.loads((home / "active.json").read_text())["node"] == str(2**63 + 7)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"node": "x", "here": 1}', "\x00"])
def test_a_record_that_cannot_be_read_is_none(machine, flower, home, content):
    (home / "active.json").write_text(content)

    machine.start(home).ActivateNode(None)

    assert flower.asked == ["activate"]


def test_the_start_of_the_machine_is_the_same_at_every_look():
    assert abs(module.machine_started() - module.machine_started()) < 0.1
    assert module.machine_started() < module.time.time()


def test_flower_has_what_is_changed():
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supernode.fleet_http_client import FleetHttpClient

    assert DeactivateNodeRequest(node_id=2**64 - 1).node_id == 2**64 - 1
    assert {"ActivateNode", "DeactivateNode"} <= vars(FleetHttpClient).keys()
