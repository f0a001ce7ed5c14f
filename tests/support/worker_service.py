"""A worker's service at a real socket, in the test's own process."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc

from client.pieces import CHANNEL_OPTIONS, PIECE_BYTES, data_pieces, head_piece
from client.service import WorkerService
from client.serving import serving
from client.training import fit
from client.worker import SiteWorker
from common.bodies import body_of
from common.messages import Update
from common.tensors import chunks_of, file_bytes_of
from common.wire.worker_pb2_grpc import WorkerStub
from tests.support.federations import same_bits
from tests.support.jobs import worker_of

WAIT = 20.0


class Served:
    """One site, served as often as asked, each time by a new worker over the same folder."""

    def __init__(self, profile: Path, folder: Path) -> None:
        self._profile, self.folder = profile, folder
        self.socket = folder / "w.sock"

    @contextlib.contextmanager
    def __call__(self, *, trouble=lambda: "", **options) -> Iterator[SiteWorker]:
        worker = worker_of(self._profile, self.folder / "state", **options)
        with serving(WorkerService(worker, self.folder / "answers", trouble), self.socket):
            yield worker

    @contextlib.contextmanager
    def stub(self):
        with grpc.insecure_channel(f"unix:{self.socket}", options=CHANNEL_OPTIONS) as channel:
            yield WorkerStub(channel)


class Trainings:
    """In the place of ``fit``: counts, and waits until it may go on."""

    def __init__(self) -> None:
        self.count, self.begun, self.go = 0, threading.Event(), threading.Event()
        self.go.set()

    def __call__(self, *arguments):
        self.count += 1
        self.begun.set()
        assert self.go.wait(WAIT)
        return fit(*arguments)


def pieces_of(kind, job, weights=None, declared=None):
    """Yield a job as a messenger sends it, or as one that lies about its size."""
    size = 0 if weights is None else file_bytes_of(weights)
    yield head_piece(kind, body_of(job), size if declared is None else declared)
    if weights is not None:
        yield from data_pieces(chunks_of(weights, PIECE_BYTES))


def in_thread(work):
    """Run something in a thread; the list holds what came of it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    return thread, found


def equal(one: Update, two: Update) -> bool:
    """Whether two updates are equal to the last bit, but for the time that they took."""
    timeless = [replace(u.report, seconds={}) for u in (one, two)]
    return timeless[0] == timeless[1] and same_bits(one.weights, two.weights)
