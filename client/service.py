"""The worker's end of the socket: one job at a time, its answer kept until the next.

A messenger that dies leaves its job running; when the same job is asked again, the kept answer
is given and nothing is trained twice. Whatever goes wrong crosses the socket as a code and a
fixed sentence; the story is in the site's log.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, final

import grpc

from client.answers import Answer, KeptAnswers
from client.consent import ALONE, ENROL, EVALUATE, SHARE, TRAIN
from client.failures import failure_of
from client.pieces import (
    DONE,
    FAILED,
    PIECE_BYTES,
    check_array_bytes,
    data_pieces,
    head_piece,
    read_arrays,
    read_head,
)
from client.session import bytes_of_arrays
from client.status import IDLE, RECEIVING, SENDING, Status
from client.worker import SiteWorker
from common.bodies import body_of, digest_of_job, has_weights, value_of_body
from common.errors import UpdateRefusedError
from common.events import SITE
from common.messages import AloneJob, Context, EvaluateJob, ShareJob, TrainJob
from common.study.study import Study, study_hash
from common.tensors import LARGEST_HEADER_BYTES
from common.wire import worker_pb2
from common.wire.worker_pb2_grpc import WorkerServicer

T = TypeVar("T")

POLL_SECONDS = 0.5
STATUS_SECONDS = 0.25
READY_SECONDS = 5.0
WATCHERS = 8
KEPT = frozenset(
    {TRAIN, ALONE, EVALUATE, SHARE}
)  # what a site has may have changed: enrol anew


@dataclass(frozen=True)
class Kind:
    """One kind of job: what it carries and who does it."""

    job: type[Any]
    work: Callable[[SiteWorker, Any], Any]


KINDS = {
    ENROL: Kind(Context, SiteWorker.enrol),
    TRAIN: Kind(TrainJob, SiteWorker.train),
    ALONE: Kind(AloneJob, SiteWorker.train_alone),
    EVALUATE: Kind(EvaluateJob, SiteWorker.evaluate),
    SHARE: Kind(ShareJob, SiteWorker.share),
}


class _MessengerLostError(Exception):
    """Nobody waits for the answer any more."""


@final
class WorkerService(WorkerServicer):
    """Answers messengers and watchers.

    Args:
        worker: Does the jobs.
        folder: Of the answers that are kept.
        trouble: Says in a fixed sentence what keeps the site from working, or nothing.
    """

    def __init__(
        self, worker: SiteWorker, folder: Path, trouble: Callable[[], str] = lambda: ""
    ) -> None:
        self._worker, self._trouble = worker, trouble
        self._answers = KeptAnswers(folder)
        self._jobs = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job")
        self._watchers = threading.BoundedSemaphore(WATCHERS)
        self._busy, self._lock = 0, threading.Lock()
        self._size_of = "", 0  # bytes of the newest study's arrays

    def stop(self) -> None:
        """Take no more jobs and end the one under way at its next step."""
        self._worker.stop.set()
        self._jobs.shutdown(wait=False, cancel_futures=True)

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way, or an answer."""
        with self._lock:
            return self._busy > 0

    # --- jobs --------------------------------------------------------------------------------

    def Do(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """Do one job."""
        if self._worker.stop.is_set():
            context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is ending")
        with self._working():
            try:
                answer = self._answer(request_iterator, context)
            except (_MessengerLostError, grpc.RpcError):
                return
            except Exception as error:  # noqa: BLE001 - only a code may cross the socket
                SITE.error("job_failed", exc_info=error)
                if self._worker.stop.is_set():  # not the job's fault: to be asked again
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is ending")
                yield head_piece(FAILED, body_of(failure_of(error)))
                return
            try:
                yield from self._send(answer)
            except Exception as error:  # noqa: BLE001 - gRPC would send its text
                SITE.error("answer_lost", exc_info=error)
                context.abort(grpc.StatusCode.UNAVAILABLE, "the answer cannot be read")

    def _answer(self, pieces: Iterator[Any], call: Any) -> Answer:
        head = read_head(pieces)
        kind = KINDS.get(head.kind)
        if kind is None:
            raise UpdateRefusedError(f"{head.kind[:80]!r} is no kind of job")
        carries = has_weights(kind.job)
        job = value_of_body(kind.job, head.body, {} if carries else None)
        about: Context = job if isinstance(job, Context) else job.context
        study = self._worker.permit(head.kind, about)
        check_array_bytes(head.array_bytes, self._most_bytes(study, call) if carries else 0)
        if carries:
            self._show_receiving(about, study)
            job = replace(job, weights=read_arrays(pieces, head.array_bytes))
            self._worker.status.count(bytes_in=head.array_bytes)
        future = self._jobs.submit(self._do, head.kind, job)
        del job  # the job's own thread holds the weights, and lets go of them
        return _result(future, call)

    def _most_bytes(self, study: Study, call: Any) -> int:
        """Return the most bytes of arrays that a job may bring, when no other job is under way.

        Only one job's arrays are held at a time; and to build a network touches torch's global
        random state, which belongs to the job under way.
        """
        name = study_hash(study)
        if self._size_of[0] != name:
            self._size_of = name, _result(self._jobs.submit(bytes_of_arrays, study), call)
        return self._size_of[1] + LARGEST_HEADER_BYTES

    def _do(self, kind: str, job: Any) -> Answer:
        about: Context = job if isinstance(job, Context) else job.context
        with self._working():
            self._worker.permit(kind, about)  # it may have waited long
            answer = self._kept_or_done(kind, job)
            self._worker.permit(kind, about)  # and people may have withdrawn meanwhile
            return answer

    def _kept_or_done(self, kind: str, job: Any) -> Answer:
        work = KINDS[kind].work
        if kind not in KEPT:
            return Answer(body=body_of(work(self._worker, job)))
        digest = digest_of_job(kind, job)
        kept = self._answers.find(kind, digest)
        return kept or self._answers.keep(kind, digest, work(self._worker, job))

    def _send(self, answer: Answer) -> Iterator[Any]:
        status = self._worker.status
        with answer.open() as file:
            yield head_piece(DONE, answer.body, answer.array_bytes)
            sent = 0
            for data in data_pieces(iter(lambda: file.read(PIECE_BYTES), b"")):
                status.show(SENDING, done=sent, total=answer.array_bytes)
                yield data
                sent += len(data.data)
            status.count(bytes_out=sent)

    def _show_receiving(self, about: Context, study: Study) -> None:
        """Say what is coming, unless another job is under way."""
        status = self._worker.status
        if status.now().phase == IDLE:
            status.job(run=about.run, study=study_hash(study), number=about.round)
            status.show(RECEIVING)

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                if not self._busy:
                    self._worker.status.show(IDLE)

    # --- watching ----------------------------------------------------------------------------

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802, ARG002
        """Tell what the worker is doing, a few times a second at most."""
        if not self._watchers.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already")
        try:
            yield from self._changes(context)
        except Exception as error:  # noqa: BLE001 - gRPC would send its text
            SITE.error("watch_failed", exc_info=error)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the status cannot be told")
        finally:
            self._watchers.release()

    def _changes(self, call: Any) -> Iterator[Any]:
        trouble, looked = "", float("-inf")
        last: Any = None
        for status in self._worker.status.changes(POLL_SECONDS):
            if not call.is_active() or self._worker.stop.is_set():
                return
            now = time.monotonic()
            if now - looked >= READY_SECONDS:
                trouble, looked = self._trouble(), now
            message = _status_message(status, trouble)
            if message != last:
                last = message
                yield message
                time.sleep(STATUS_SECONDS)


def _status_message(status: Status, trouble: str) -> Any:
    return worker_pb2.Status(**vars(status), ready=not trouble, reason=trouble)


def _result(future: Future[T], call: Any) -> T:
    """Wait for a job; give up when the messenger is gone, though the job goes on."""
    while not wait([future], timeout=POLL_SECONDS).done:
        if not call.is_active():
            future.cancel()  # has an effect only while it waits for its turn
            raise _MessengerLostError
    return future.result()
