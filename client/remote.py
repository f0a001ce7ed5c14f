"""The site's worker seen from a messenger: jobs over a unix socket; no torch, no image reader.

Flower starts a messenger anew for every message. It may not read a case; the worker, another
process of another user, may. A worker that is not there yet, or that ends while it works, is
waited for: it goes on from its checkpoint when the same job is asked again.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, final

import grpc

from client.pieces import (
    CHANNEL_OPTIONS,
    DONE,
    FAILED,
    LARGEST_ARRAY_BYTES,
    PIECE_BYTES,
    check_array_bytes,
    data_pieces,
    head_piece,
    read_arrays,
    read_head,
)
from common.bodies import body_of, has_weights, value_of_body
from common.errors import ReportedError, UpdateRefusedError, WorkerError
from common.events import SITE, emit
from common.messages import (
    AloneJob,
    AloneReport,
    Context,
    Enrolment,
    EvaluateJob,
    Evaluation,
    Failure,
    SharedModel,
    ShareJob,
    TrainJob,
    Update,
)
from common.tensors import LARGEST_HEADER_BYTES, Weights, chunks_of, file_bytes_of
from common.wire import worker_pb2
from common.wire.worker_pb2_grpc import WorkerStub

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
TRIES = 3
PAUSE_SECONDS = 1.0
LOOK_SECONDS = 0.1


@final
class RemoteWorker:
    """A worker behind a socket.

    Args:
        socket: Its path.
        patience_seconds: Longest wait for a worker that is not there.
        tries: How often a job is asked of a worker that ends while it works.
        pause_seconds: After the first of these, so that it can start; longer after the next.
    """

    def __init__(
        self,
        socket: Path,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        tries: int = TRIES,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._patience, self._tries, self._pause = patience_seconds, tries, pause_seconds
        address = f"unix:{socket.absolute()}"
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._stub: Any = WorkerStub(self._channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the channel; a job under way is given up here, not at the worker."""
        self._channel.close()

    def enrol(self, context: Context) -> Enrolment:
        """Say who the site is and what it has."""
        return self._do("enrol", context, Enrolment)

    def train(self, job: TrainJob) -> Update:
        """Train one round."""
        return self._do("train", job, Update)

    def train_alone(self, job: AloneJob) -> AloneReport:
        """Train the model that the site would have had alone."""
        return self._do("alone", job, AloneReport)

    def evaluate(self, job: EvaluateJob) -> Evaluation:
        """Score weights on held-out cases."""
        return self._do("evaluate", job, Evaluation)

    def share(self, job: ShareJob) -> SharedModel:
        """Hand out the model that the site trained alone."""
        return self._do("share", job, SharedModel)

    def _do(self, kind: str, job: Any, answer: type[T]) -> T:
        """Ask until there is an answer.

        Raises:
            ReportedError: What the worker says of its own failure.
            UpdateRefusedError: If its answer is malformed.
            WorkerError: If it is not there, or ends each time.
        """
        for attempt in range(1, self._tries + 1):
            self._wait_for_worker()
            try:
                return self._ask(kind, job, answer)
            except grpc.RpcError as error:
                emit(SITE, "worker_lost", attempt=attempt, code=_code(error))
                time.sleep(self._pause * attempt)
        raise WorkerError(f"the worker ended {self._tries} times before it had an answer")

    def _wait_for_worker(self) -> None:
        """Wait until the worker tells its status, which one that is ending does not."""
        until = time.monotonic() + self._patience
        while (left := until - time.monotonic()) > 0:
            request = worker_pb2.WatchRequest()
            call = self._stub.Watch(request, wait_for_ready=True, timeout=left)
            try:
                if next(call, None) is not None:
                    return
            except grpc.RpcError as error:
                if _code(error) == "RESOURCE_EXHAUSTED":  # it is there, and many watch it
                    return
            finally:
                call.cancel()
            time.sleep(min(LOOK_SECONDS, max(left, 0.0)))
        raise WorkerError(f"no worker answered within {self._patience:g} s; is it running?")

    def _ask(self, kind: str, job: Any, answer: type[T]) -> T:
        weights: Weights | None = getattr(job, "weights", None)
        sent = file_bytes_of(weights) if weights is not None else 0
        call = self._stub.Do(_pieces(kind, job, weights, sent))
        head = read_head(call)
        if head.kind == FAILED:
            failure = value_of_body(Failure, head.body)
            raise ReportedError(failure.code[:60], failure.sentence[:300])
        if head.kind != DONE:
            raise UpdateRefusedError("the worker's answer is neither done nor failed")
        # a site returns some of the arrays that it was sent; a model alone was never sent
        most = LARGEST_ARRAY_BYTES if kind == "share" else sent + LARGEST_HEADER_BYTES
        check_array_bytes(head.array_bytes, most)
        arrays = read_arrays(call, head.array_bytes) if has_weights(answer) else None
        return value_of_body(answer, head.body, arrays)


def _pieces(kind: str, job: Any, weights: Weights | None, size: int) -> Iterator[Any]:
    yield head_piece(kind, body_of(job), size)
    if weights is not None:
        yield from data_pieces(chunks_of(weights, PIECE_BYTES))


def _code(error: grpc.RpcError) -> str:
    return str(error.code().name) if hasattr(error, "code") else "UNKNOWN"
