"""Malformed jobs and malformed answers, at the worker's end of the socket and at the other."""

import grpc
import pytest

from client.pieces import PIECE_BYTES, data_pieces, head_piece
from client.service import WorkerService
from common.bodies import body_of
from common.errors import UpdateRefusedError
from common.wire import worker_pb2
from common.wire.worker_pb2_grpc import WorkerStub
from tests.support.jobs import jobs_of
from tests.support.worker_service import pieces_of

JOBS = jobs_of()
JOB = JOBS.train(1)
HUGE = 8 * 2**30
MALFORMED = {
    "nothing": lambda: iter(()),
    "no head": lambda: data_pieces([b"x"]),
    "an empty piece": lambda: iter([worker_pb2.Piece()]),
    "an unknown kind": lambda: pieces_of("format", JOB),
    "a body that is no job": lambda: iter([head_piece("train", "[]")]),
    "a body that is no JSON": lambda: iter([head_piece("enrol", "{")]),
    "arrays with an enrolment": lambda: pieces_of("enrol", JOBS.context(0), declared=8),
    "fewer bytes than none": lambda: pieces_of("train", JOB, declared=-1),
    "more than any network": lambda: pieces_of("train", JOB, declared=HUGE + 1),
    "more than this network": lambda: pieces_of("train", JOB, declared=20_000_000),
    "fewer bytes than declared": lambda: pieces_of("train", JOB, JOB.weights, declared=30_000),
    "more bytes than declared": lambda: pieces_of("train", JOB, JOB.weights, declared=100),
    "an empty piece of data": lambda: iter(
        [head_piece("train", body_of(JOB), 10), worker_pb2.Piece(data=b"")]
    ),
    "a piece too large": lambda: iter(
        [
            head_piece("train", body_of(JOB), 2 * PIECE_BYTES),
            worker_pb2.Piece(data=bytes(PIECE_BYTES + 1)),
        ]
    ),
    "two heads": lambda: iter([head_piece("train", body_of(JOB), 100)] * 2),
}


def failure_of(call):
    """Return the failure that a call answers with."""
    answer = list(call)
    assert [a.head.kind for a in answer] == ["failed"]
    return answer[0].head.body


@pytest.mark.parametrize("pieces", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_job_is_refused_before_anything_is_done(served, trainings, pieces):
    with served(), served.stub() as stub:
        failure = failure_of(stub.Do(pieces()))

    assert '"UpdateRefusedError"' in failure
    assert trainings.count == 0


@pytest.mark.parametrize(
    "data", [b"\xff" * 100, bytes(100), b"\x02" + bytes(7) + b"{}" + b"x" * 90]
)
def test_bytes_that_are_no_arrays_are_refused(served, data):
    def pieces():
        yield head_piece("train", body_of(JOB), len(data))
        yield from data_pieces([data])

    with served(), served.stub() as stub:
        assert '"IncompatibleWeightsError"' in failure_of(stub.Do(pieces()))


def test_a_message_larger_than_any_head_is_refused_by_the_transport(served):
    big = 22_000_000
    options = (("grpc.max_send_message_length", -1),)
    path = served.socket

    with served(), grpc.insecure_channel(f"unix:{path}", options=options) as channel:
        call = WorkerStub(channel).Do(iter([head_piece("train", "x" * big)]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


LYING = {
    "no head": lambda: data_pieces([b"x"]),
    "another kind": lambda: iter([head_piece("maybe", "{}")]),
    "more arrays than it was sent": lambda: iter([head_piece("done", "{}", 20_000_000)]),
    "arrays that do not come": lambda: iter([head_piece("done", "{}", 100)]),
}


@pytest.mark.parametrize("pieces", LYING.values(), ids=LYING)
def test_a_malformed_answer_is_refused(served, remote, monkeypatch, pieces):
    monkeypatch.setattr(WorkerService, "Do", lambda *_: pieces())

    with served(), pytest.raises(UpdateRefusedError):
        remote.train(JOB)
