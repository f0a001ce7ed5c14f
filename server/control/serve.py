"""The control service's process: two services and gRPC's health service on one unix socket."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from common.errors import RunInUseError
from common.wire.control_pb2_grpc import (
    add_ControlServicer_to_server,
    add_EnrolmentServicer_to_server,
)
from server.control.enrolment import EnrolmentService
from server.control.service import ControlService

LARGEST_MESSAGE_BYTES = 4 << 20
THREADS, WAITING_CALLS = 16, 64
STOP_SECONDS = 3.0


def build_server(
    socket: Path, enrolment: EnrolmentService, control: ControlService
) -> grpc.Server:
    """Return a server, not yet started, on a unix socket that its user and group can open.

    Raises:
        RunInUseError: If another server answers there.
    """
    _clear(socket)
    server = grpc.server(
        ThreadPoolExecutor(THREADS, thread_name_prefix="control"),
        maximum_concurrent_rpcs=WAITING_CALLS,
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.max_metadata_size", 16_384),
        ],
    )
    add_EnrolmentServicer_to_server(enrolment, server)  # type: ignore[no-untyped-call]
    add_ControlServicer_to_server(control, server)  # type: ignore[no-untyped-call]
    health = HealthServicer()
    health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    before = os.umask(0o117)  # 0660 from the first moment on
    try:
        server.add_insecure_port(f"unix:{socket}")
    finally:
        os.umask(before)
    return server


def _clear(socket: Path) -> None:
    if not socket.exists():
        return
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            socket.unlink(missing_ok=True)
            return
    raise RunInUseError(f"{socket}: another control service answers there; stop it first")


def serve(server: grpc.Server) -> None:
    """Serve until SIGTERM or SIGINT; calls under way get a few seconds to end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    stop.wait()
    server.stop(STOP_SECONDS).wait()
