"""The worker's socket, workers that come and go, and those who watch."""

import contextlib
import socket
import stat
import time

import grpc
import pytest

from client.remote import RemoteWorker
from client.service import WorkerService
from client.serving import owning, serving
from common.errors import RunError, RunInUseError, WorkerError
from common.tensors import file_bytes_of
from common.wire import worker_pb2
from tests.support.jobs import jobs_of, worker_of
from tests.support.worker_service import WAIT, equal, in_thread, pieces_of

JOBS = jobs_of()
JOB = JOBS.train(1)


def test_the_socket_is_for_its_group_alone_and_gone_afterwards(served):
    path = served.socket
    with served():
        mode = stat.S_IMODE(path.stat().st_mode)
        stands = path.exists()

    assert (mode, stands) == (0o660, True)
    assert not path.exists()


def test_a_folder_made_for_the_socket_is_closed_to_others(site, tmp_path):
    service = WorkerService(worker_of(site, tmp_path / "s"), tmp_path / "answers")

    with serving(service, tmp_path / "new" / "w.sock"):
        mode = stat.S_IMODE((tmp_path / "new").stat().st_mode)

    assert mode == 0o750


def test_a_socket_that_a_dead_worker_left_is_replaced(served, remote):
    path = served.socket
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    with served():
        assert remote.enrol(JOBS.context(0)).site == "ct-1"


def test_a_live_worker_is_not_replaced(served):
    with served(), pytest.raises(RunInUseError, match="another worker"), served():
        pass


def test_a_live_socket_of_another_program_is_not_replaced(served):
    path = served.socket
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(RunInUseError, match="answers there"), served():
            pass

    assert path.exists()


def test_a_file_in_the_sockets_place_is_not_removed(served):
    path = served.socket
    path.parent.mkdir()
    path.write_text("mine")

    with pytest.raises(RunError, match="is no socket"), served():
        pass

    assert path.read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_told(site, tmp_path):
    service = WorkerService(worker_of(site, tmp_path / "s"), tmp_path / "answers")

    with (
        pytest.raises(RunError, match="at most 107 bytes"),
        serving(service, tmp_path / ("x" * 100) / "w.sock"),
    ):
        pass


def test_folders_that_cannot_be_used_are_told(site, tmp_path):
    service = WorkerService(worker_of(site, tmp_path / "s"), tmp_path / "answers")
    (tmp_path / "file").write_text("")

    with pytest.raises(RunError, match="cannot be made"), serving(service, tmp_path / "file/w"):
        pass
    with pytest.raises(RunError, match="cannot be opened"), owning(tmp_path / "none" / "lock"):
        pass


# --- a worker that is not there ----------------------------------------------------------------


def test_no_worker_is_told_after_a_while(tmp_path):
    worker = RemoteWorker(tmp_path / "w.sock", patience_seconds=0.3)

    with contextlib.closing(worker), pytest.raises(WorkerError, match="is it running"):
        worker.enrol(JOBS.context(0))


def test_a_worker_that_comes_later_is_waited_for(served, remote):
    thread, found = in_thread(lambda: remote.enrol(JOBS.context(0)))
    time.sleep(0.5)

    with served():
        thread.join()

    assert found[0].site == "ct-1"


def test_a_worker_that_ends_in_mid_training_is_asked_again_when_it_is_back(
    site, tmp_path, served, remote, trainings
):
    expected = worker_of(site, tmp_path / "plain").train(JOBS.train(1))
    trainings.begun.clear()
    trainings.go.clear()
    with served(checkpoints=True):
        thread, found = in_thread(lambda: remote.train(JOBS.train(1)))
        assert trainings.begun.wait(WAIT)
    trainings.go.set()
    until = time.monotonic() + WAIT
    while not list(served.folder.rglob("checkpoint-*")) and time.monotonic() < until:
        time.sleep(0.01)

    with served(checkpoints=True):
        thread.join()

    assert trainings.count == 3
    assert equal(found[0], expected)


def test_a_worker_that_is_ending_takes_no_job(served, trainings):
    impatient = RemoteWorker(served.socket, patience_seconds=0.3)
    with served() as worker, contextlib.closing(impatient) as remote, served.stub() as stub:
        worker.stop.set()
        with pytest.raises(WorkerError, match="no worker answered"):
            remote.train(JOB)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Do(pieces_of("train", JOB, JOB.weights)))

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert trainings.count == 0


def test_a_worker_that_ends_each_time_is_given_up(served, remote, monkeypatch):
    def ending(self, request_iterator, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    monkeypatch.setattr(WorkerService, "Do", ending)

    with served(), pytest.raises(WorkerError, match="ended 3 times"):
        remote.enrol(JOBS.context(0))


def test_an_answer_that_cannot_be_read_any_more_is_asked_again(served, remote, monkeypatch):
    send, tried = WorkerService._send, []

    def once_failing(self, answer):
        tried.append(1)
        if len(tried) == 1:
            raise OSError("/data/Mustermann is gone")
        yield from send(self, answer)

    monkeypatch.setattr(WorkerService, "_send", once_failing)

    with served():
        assert remote.enrol(JOBS.context(0)).site == "ct-1"
    assert len(tried) == 2


# --- watching ----------------------------------------------------------------------------------


def test_a_watcher_sees_the_work_go_on(served, remote, trainings):
    trainings.go.clear()
    with served(), served.stub() as stub:
        watch = stub.Watch(worker_pb2.WatchRequest())
        first = next(watch)
        thread, _ = in_thread(lambda: remote.train(JOBS.train(1)))
        assert trainings.begun.wait(WAIT)
        training = next(s for s in watch if s.phase == "training")
        trainings.go.set()
        thread.join()
        last = next(s for s in watch if s.phase == "idle")
        watch.cancel()

    assert (first.phase, first.ready, first.reason) == ("idle", True, "")
    assert (training.run, training.hash, training.round) == ("run-1", JOBS.hash, 1)
    assert (training.done, training.total) == (0, 3)
    assert last.bytes_in == file_bytes_of(JOBS.weights)
    assert last.bytes_out > 0


def test_a_watcher_is_told_at_most_four_times_a_second(served):
    with served() as worker, served.stub() as stub:
        watch = stub.Watch(worker_pb2.WatchRequest())
        ends, seen = time.monotonic() + 1.0, []
        while time.monotonic() < ends:
            worker.status.show("training", done=len(seen) + 1, total=9)
            seen.append(next(watch))
        watch.cancel()

    assert 2 <= len(seen) <= 6


def test_trouble_is_told_in_its_sentence(served):
    trouble = "the site's profile cannot be read"
    with (
        served(trouble=lambda: trouble),
        served.stub() as stub,
    ):
        first = next(stub.Watch(worker_pb2.WatchRequest()))

    assert (first.ready, first.reason) == (False, trouble)


def test_too_many_watchers_are_sent_away_and_jobs_still_done(served, remote):
    with served(), served.stub() as stub:
        watches = [stub.Watch(worker_pb2.WatchRequest()) for _ in range(8)]
        assert all(next(watch).ready for watch in watches)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(worker_pb2.WatchRequest()))
        answered = remote.enrol(JOBS.context(0))
        for watch in watches:
            watch.cancel()

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answered.site == "ct-1"


def test_a_status_that_cannot_be_told_says_no_more_than_that(served):
    def failing():
        raise PermissionError("/data/Mustermann^Erika")

    with served(trouble=failing), served.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        next(stub.Watch(worker_pb2.WatchRequest()))

    assert caught.value.details() == "the status cannot be told"
