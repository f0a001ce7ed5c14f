import pytest

from client import worker as worker_module
from client.remote import RemoteWorker
from tests.support.federations import phantom_sites
from tests.support.worker_service import WAIT, Served, Trainings


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The profile of one CT site of phantoms; tests must not change it."""
    (profile,) = phantom_sites(tmp_path_factory.mktemp("site"), modalities=("ct",), cases=6)
    return profile


@pytest.fixture
def served(site, tmp_path):
    return Served(site, tmp_path / "a")


@pytest.fixture
def remote(served):
    worker = RemoteWorker(served.socket, patience_seconds=WAIT, pause_seconds=0.02)
    yield worker
    worker.close()


@pytest.fixture
def trainings(monkeypatch):
    """Count the trainings; ``go`` holds them up."""
    counted = Trainings()
    monkeypatch.setattr(worker_module, "fit", counted)
    return counted
