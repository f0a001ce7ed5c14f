"""Flower's SuperNode with the site's client certificate, for the bundle of this fedseg only.

``python -m deploy.supervise.supernode <options of flower-supernode>``. Flower 1.41 can show no
client certificate, runs whatever app its SuperLink sends, asks for work every three seconds,
looks for announced bytes after one, two, four, eight seconds, cannot come back for a minute
after it was killed, takes an old run's reply for a new one's, and lives on without a connection
after an answer that it does not retry. These places of it are changed here, after a look that
they are what they were when this was written; with another Flower the process refuses to start.

The environment gives the files: ``FEDSEG_CERTIFICATE``, ``FEDSEG_KEY``, ``FEDSEG_BUNDLE`` (a
file with the one SHA-256 that may run), and ``FLWR_HOME`` the node's own folder.
"""

import hashlib
import inspect
import os
import ssl
import sys
import time
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from common.patience import look_again_after
from deploy.supervise.lease import Lease, give_back_leases

CHECKED_FLOWER = "1.41."
IDLE_SECONDS = 3  # as it stands in Flower
ASK_SECONDS, LOOK_SECONDS, BUSY_SECONDS = 0.5, 0.1, 600.0
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.1, 2.0  # for a job that the hub still writes
CONNECTION_ENDED = "the connection to the hub ended; the supervisor starts it again"


def main() -> None:
    """Check, change, start; end the process when Flower's own loop ends."""
    files = {name: Path(os.environ.pop(name, "")) for name in
             ("FEDSEG_CERTIFICATE", "FEDSEG_KEY", "FEDSEG_BUNDLE")}  # fmt: skip
    import flwr

    if not flwr.__version__.startswith(CHECKED_FLOWER):
        sys.exit(
            f"supernode: Flower {flwr.__version__} is installed, fedseg was checked against "
            f"{CHECKED_FLOWER}x; install the Flower that fedseg names"
        )
    try:
        _use_certificate(files["FEDSEG_CERTIFICATE"], files["FEDSEG_KEY"])
        _allow_bundle(files["FEDSEG_BUNDLE"])
        _ask_sooner()
        _answer_each_question()
        _come_back_sooner(Path(os.environ["FLWR_HOME"]))
        if not look_again_after(FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS):
            raise AttributeError("pull_objects takes other arguments")
    except (ImportError, AttributeError, KeyError) as error:
        sys.exit(f"supernode: this Flower is not the one fedseg was checked against: {error}")
    from flwr.supercore.exit import ExitCode, flwr_exit
    from flwr.supernode.cli import flower_supernode

    sys.argv[0] = "flower-supernode"
    flower_supernode()
    flwr_exit(ExitCode.SUPERNODE_CONNECTION_ERROR, CONNECTION_ENDED)


def _use_certificate(certificate: Path, key: Path) -> None:
    from flwr.supercore.protobuf.client import ProtobufClient
    from flwr.supernode.fleet_http_client import FleetHttpClient

    if "__init__" in vars(FleetHttpClient):
        raise AttributeError("FleetHttpClient has a constructor of its own")

    def connect(self: Any, base_url: str, *, verify: Any = True, **others: Any) -> None:
        if not base_url.startswith("https://"):
            sys.exit("supernode: the hub's address must be one with TLS")
        context = verify
        if not isinstance(verify, ssl.SSLContext):
            context = ssl.create_default_context(
                cafile=verify if isinstance(verify, str) else None
            )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        ProtobufClient.__init__(self, base_url, verify=context, **others)

    FleetHttpClient.__init__ = connect  # type: ignore[method-assign]


def _allow_bundle(allowed: Path) -> None:
    """Let Flower's own check of a bundle run, and let it compare the digest of the bytes."""
    import flwr.supernode.start_client_internal as internal
    from flwr.supernode.fleet_http_client import FleetHttpClient

    verify: Any = internal._verify_fab  # noqa: SLF001 - the hook
    start: Any = internal.start_client_internal
    fetch = FleetHttpClient.GetFab
    if list(inspect.signature(verify).parameters) != ["fab", "trusted_entities"]:
        raise AttributeError("_verify_fab takes other arguments")
    if "trusted_entities" not in inspect.signature(start).parameters:
        raise AttributeError("start_client_internal takes no trusted_entities")

    def is_ours(fab: Any, _trusted: Any) -> bool:
        digest = hashlib.sha256(fab.content).hexdigest()
        wanted = allowed.read_text(encoding="ascii").split()
        if digest not in wanted:
            print(f"supernode: refused an app bundle: {digest} is not that of this fedseg",
                  file=sys.stderr, flush=True)  # fmt: skip
        return digest in wanted

    def fetch_marked(self: Any, request: Any) -> Any:
        answer = fetch(self, request)
        # without this mark Flower refuses before it asks the check
        answer.fab.verifications["valid_license"] = "site"
        return answer

    def start_checking(**arguments: Any) -> None:
        start(**{**arguments, "trusted_entities": {"site": str(allowed)}})

    internal._verify_fab = is_ours  # type: ignore[assignment]  # noqa: SLF001
    internal.start_client_internal = start_checking
    FleetHttpClient.GetFab = fetch_marked  # type: ignore[method-assign]


def _come_back_sooner(home: Path) -> None:
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supernode.fleet_http_client import FleetHttpClient

    give_back_leases(FleetHttpClient, Lease(home), DeactivateNodeRequest)


def _ask_sooner() -> None:
    """Ask the hub twice a second while a run is under way; Flower asks every three seconds.

    Also look ten times a second whether the messenger has answered; Flower looks twice.
    """
    import flwr.supernode.start_client_internal as internal

    pull: Any = internal._pull_and_store_message  # noqa: SLF001 - the hook
    real_sleep = time.sleep
    last_message = -BUSY_SECONDS

    @wraps(pull)
    def pull_noting(**arguments: Any) -> Any:
        nonlocal last_message
        run = pull(**arguments)
        if run is not None:
            last_message = time.monotonic()
        return run

    def sleep(seconds: float) -> None:
        busy = time.monotonic() - last_message < BUSY_SECONDS
        shorter = {IDLE_SECONDS: ASK_SECONDS if busy else IDLE_SECONDS, 0.5: LOOK_SECONDS}
        real_sleep(shorter.get(seconds, seconds))

    hooked: Any = internal
    hooked._pull_and_store_message = pull_noting  # noqa: SLF001
    hooked.time = SimpleNamespace(**{**vars(time), "sleep": sleep})


def _answer_each_question() -> None:
    """After a message was received, send replies until its own is among them.

    Flower sends whatever replies there are, once. Where a run was stopped while a site
    received, that is the old run's reply; the new one's would stay until a third message came.
    """
    import flwr.supernode.start_client_internal as internal

    pull: Any = internal._pull_and_store_message  # noqa: SLF001 - the hook
    push: Any = internal._push_messages  # noqa: SLF001 - the hook
    if "receive" not in inspect.signature(pull).parameters:
        raise AttributeError("_pull_and_store_message takes other arguments")
    if "send" not in inspect.signature(push).parameters:
        raise AttributeError("_push_messages takes other arguments")
    question = ""

    def pull_noting(**arguments: Any) -> Any:
        nonlocal question
        receive = arguments["receive"]

        def receive_noting() -> Any:
            nonlocal question
            received = receive()
            if received is not None:
                question = received[0].metadata.message_id
            return received

        return pull(**{**arguments, "receive": receive_noting})

    def push_until_answered(**arguments: Any) -> None:
        send, answered = arguments["send"], set()

        def send_noting(message: Any, *others: Any) -> Any:
            answered.add(message.metadata.reply_to_message_id)
            return send(message, *others)

        while question not in answered:  # each push waits for a reply
            push(**{**arguments, "send": send_noting})

    hooked: Any = internal
    hooked._pull_and_store_message = pull_noting  # noqa: SLF001
    hooked._push_messages = push_until_answered  # noqa: SLF001


if __name__ == "__main__":
    main()
