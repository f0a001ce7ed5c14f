"""A job or its answer as it crosses the socket: one head, then the bytes of its arrays.

Both ends are of one machine, and neither trusts the other's numbers: what is declared is held
against what was agreed before anything is allocated, and what arrives against what was
declared.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from common.bodies import LARGEST_BODY_CHARACTERS
from common.errors import UpdateRefusedError
from common.tensors import Weights, tensors_in
from common.wire import worker_pb2

PIECE_BYTES = 2 * 2**20
LARGEST_ARRAY_BYTES = 8 * 2**30
DONE, FAILED = "done", "failed"
_LARGEST_MESSAGE_BYTES = LARGEST_BODY_CHARACTERS + 2**20
_SIZES = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _LARGEST_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
SERVER_OPTIONS = (
    *_SIZES,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),  # training sends nothing for hours
    ("grpc.so_reuseport", 0),
)
CHANNEL_OPTIONS = (
    *_SIZES,
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def head_piece(kind: str, body: str, array_bytes: int = 0) -> Any:
    """Return the first piece of a job or of an answer."""
    head = worker_pb2.Head(kind=kind, body=body, array_bytes=array_bytes)
    return worker_pb2.Piece(head=head)


def data_pieces(chunks: Iterable[bytes | memoryview]) -> Iterator[Any]:
    """Return the further pieces; a chunk is of at most ``PIECE_BYTES``."""
    for chunk in chunks:
        yield worker_pb2.Piece(data=bytes(chunk))


def read_head(pieces: Iterator[Any]) -> Any:
    """Take the head off a stream.

    Raises:
        UpdateRefusedError: If there is none, or it declares what no job or answer has.
    """
    first = next(pieces, None)
    if first is None or first.WhichOneof("piece") != "head":
        raise UpdateRefusedError("the stream does not begin with its head")
    head = first.head
    if len(head.body) > LARGEST_BODY_CHARACTERS:
        raise UpdateRefusedError("the head's body is longer than any message")
    check_array_bytes(head.array_bytes, LARGEST_ARRAY_BYTES)
    return head


def check_array_bytes(declared: int, most: int) -> None:
    """Refuse arrays of a size that cannot be.

    Raises:
        UpdateRefusedError: Naming the two sizes.
    """
    if not 0 <= declared <= most:
        raise UpdateRefusedError(f"declares {declared} bytes of arrays, expected 0 to {most}")


def read_arrays(pieces: Iterator[Any], declared: int) -> Weights:
    """Return the arrays behind a head, as views of one buffer.

    Args:
        pieces: What follows the head.
        declared: Bytes, checked against what was agreed; memory is taken for so many.

    Raises:
        UpdateRefusedError: If they are more or fewer bytes than declared.
        IncompatibleWeightsError: If they are no safetensors file.
    """
    buffer, at = np.empty(declared, np.uint8), 0
    for piece in pieces:
        data = piece.data if piece.WhichOneof("piece") == "data" else b""
        if not data or len(data) > min(PIECE_BYTES, declared - at):
            raise UpdateRefusedError("a piece is empty, too large or more than declared")
        buffer[at : at + len(data)] = np.frombuffer(data, np.uint8)
        at += len(data)
    if at < declared:
        raise UpdateRefusedError(f"the arrays end {declared - at} bytes too early")
    return tensors_in(buffer)
