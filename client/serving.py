"""A worker's service on its unix socket: one process, one socket, for its group alone."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from client.pieces import SERVER_OPTIONS
from client.service import WorkerService
from common.errors import RunError, RunInUseError
from common.wire.worker_pb2_grpc import add_WorkerServicer_to_server

CALLS = 16
LARGEST_PATH_BYTES = 107  # of a unix socket on Linux


@contextmanager
def serving(service: WorkerService, path: Path) -> Iterator[None]:
    """Serve while the block runs.

    Args:
        service: Answers.
        path: Of the socket; its folder is made, closed to others, if it is not there.

    Raises:
        RunInUseError: If another worker serves there.
        RunError: If the socket cannot be made.
    """
    path = path.absolute()
    if len(os.fsencode(path)) > LARGEST_PATH_BYTES:
        most = f"a socket's path has at most {LARGEST_PATH_BYTES} bytes; choose a shorter one"
        raise RunError(f"{path}: {most}")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.parent}: cannot be made: {error.strerror}") from error
    with owning(path.with_name(f"{path.name}.lock")):
        _remove_dead(path)
        pool = ThreadPoolExecutor(max_workers=CALLS, thread_name_prefix="call")
        server = grpc.server(pool, options=SERVER_OPTIONS, maximum_concurrent_rpcs=CALLS)
        add_WorkerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
        _bind(server, path)
        server.start()
        try:
            yield
        finally:
            service.stop()
            server.stop(grace=None).wait()
            path.unlink(missing_ok=True)


def _bind(server: grpc.Server, path: Path) -> None:
    before = os.umask(0o117)  # the socket must not be open to others for a moment
    try:
        server.add_insecure_port(f"unix:{path}")
        path.chmod(0o660)
    except (RuntimeError, OSError) as error:
        raise RunError(f"{path}: the socket cannot be made") from error
    finally:
        os.umask(before)


@contextmanager
def owning(lock: Path) -> Iterator[None]:
    """Hold a lock file for one process.

    Raises:
        RunInUseError: If another process holds it.
        RunError: If it cannot be opened.
    """
    try:
        file = lock.open("a")
    except OSError as error:
        raise RunError(f"{lock}: cannot be opened: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            what = "another worker runs here; a site has one"
            raise RunInUseError(f"{lock.parent}: {what}") from None
        yield


def _remove_dead(path: Path) -> None:
    """Remove the socket that a killed worker left; refuse to take a live one or a file."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise RunError(f"{path}: is there and is no socket; choose another place")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise RunInUseError(f"{path}: another worker answers there; a site has one")
