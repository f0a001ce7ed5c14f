"""Flower's SuperExec whose messengers start at once.

``python -m deploy.supervise.executor <options of flower-superexec>``. Flower starts a Python
process for every message; importing Flower takes most of its life, more than a second of CPU.
Here one process imports it once and forks a messenger for each message: as separate as before,
and there in milliseconds. It holds no connection and no thread when it forks. Where it is gone,
messengers are started as Flower does.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from common.patience import look_again_after

CHECKED_FLOWER = "1.41."
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.05, 0.5  # for a job that the node still receives
NURSERY = "--nursery"


def main() -> None:
    """Run SuperExec, or, with ``--nursery``, the process that forks."""
    if sys.argv[1:2] == [NURSERY]:
        _fork_forever(socket.socket(fileno=int(sys.argv[2])))
        return
    import flwr
    from flwr.supercore.superexec import run_superexec

    if not flwr.__version__.startswith(CHECKED_FLOWER) or not hasattr(
        run_superexec, "get_executor"
    ):
        sys.exit(
            f"executor: Flower {flwr.__version__} is not one that fedseg was checked against"
        )
    ours, theirs = socket.socketpair()
    _start_nursery(theirs)
    run_superexec.get_executor = lambda *_args, **_keywords: _executor(ours)
    from flwr.supercore.cli import flower_superexec

    sys.argv[0] = "flower-superexec"
    flower_superexec()


def _start_nursery(end: socket.socket) -> None:
    os.set_inheritable(end.fileno(), True)  # noqa: FBT003
    command = [sys.executable, "-m", "deploy.supervise.executor", NURSERY, str(end.fileno())]
    subprocess.Popen(command, pass_fds=[end.fileno()])
    end.close()


def _executor(nursery: socket.socket) -> Any:
    """Return Flower's executor with another way to start a messenger."""
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.superexec.executor.types import LaunchResult

    class ForkingExecutor(SubprocessExecutor):
        def launch(self, spec: Any) -> Any:
            if spec.task_type != TaskType.CLIENT_APP or not spec.insecure:
                return super().launch(spec)
            order = {"address": spec.runtime_api_address, "token": spec.token}
            try:
                nursery.sendall(json.dumps(order).encode() + b"\n")
            except OSError:
                return super().launch(spec)
            return LaunchResult.accepted()

    return ForkingExecutor()


def _fork_forever(orders: socket.socket) -> None:
    """Import Flower once, fork a messenger for each order, end when the other side does."""
    import httpcore  # noqa: F401 - httpx loads it with its first connection
    from flwr.supernode.cli import flwr_clientapp

    look_again_after(FIRST_LOOK_SECONDS, LOOK_SECONDS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    with orders, orders.makefile("rb") as lines:
        for line in lines:
            if os.fork() == 0:
                orders.close()
                _become_messenger(flwr_clientapp, json.loads(line))


def _become_messenger(run: Any, order: Mapping[str, str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.argv = [
        "flwr-clientapp", "--insecure", "--runtime-api-address", order["address"],
        "--token", order["token"], "--parent-pid", str(os.getppid()),
    ]  # fmt: skip
    try:
        run()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
