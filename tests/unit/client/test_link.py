import json
import subprocess
import sys

import pytest

from client.link import worker_of
from client.remote import RemoteWorker
from client.worker import SiteWorker
from common.errors import ProfileError
from tests.support.studies import ROOT


def loaded_by(*modules):
    """Return the modules that a fresh process holds after these imports."""
    lines = "".join(f"import {module}\n" for module in modules)
    script = f"import sys, json\n{lines}print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_a_messenger_loads_no_torch_and_no_reader_of_images():
    heavy = {"torch", "monai", "nibabel", "pydicom", "PIL", "scipy", "server", "deploy"}

    assert loaded_by("client.app", "client.link", "client.remote").isdisjoint(heavy)


def test_a_worker_loads_nothing_that_speaks_to_the_hub():
    assert loaded_by("client.main_worker").isdisjoint({"flwr", "server", "deploy"})


def test_a_node_with_a_socket_asks_the_worker_behind_it(tmp_path):
    socket = str(tmp_path / "w.sock")

    worker = worker_of({"worker": socket, "profile": "unused"}, {})

    assert isinstance(worker, RemoteWorker)
    assert worker_of({"worker": socket}, {}) is worker
    worker.close()


def test_a_node_of_a_simulation_works_in_its_own_process(site, tmp_path):
    run = {"sites": str(site), "workspace": str(tmp_path)}

    assert isinstance(worker_of({"partition-id": 0}, run), SiteWorker)
    with pytest.raises(ProfileError, match="none for this node"):
        worker_of({"partition-id": 1}, run)
