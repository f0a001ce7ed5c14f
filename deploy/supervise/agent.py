"""``python -m deploy.supervise.agent SITE``: keeps a site's hub informed, and the site of it.

It tells the hub that the site is there, how far its work is and what its people decided;
fetches the offers; and renews the certificate in time. It sees no case and opens no profile:
what it knows of the work is what the worker's status says.
"""

import logging
import secrets
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import grpc

from client.auditing import SiteSigner, audit
from client.consent import Consent
from client.hub import Hub
from common.errors import FedsegError, RefusedError, StorageError
from common.events import SITE, JsonLines, emit
from common.files import write_json
from common.wire import control_pb2 as pb
from common.wire import worker_pb2
from common.wire.worker_pb2_grpc import WorkerStub
from deploy.supervise.offers import Offers
from deploy.supervise.site_folder import SiteFolder

REPORT_SECONDS, WORKING_SECONDS, OFFERS_SECONDS = 5.0, 1.0, 5.0
REVOKED_PAUSE_SECONDS = 30.0
HEAR_SECONDS = 10.0  # until an agent that has just started must have heard its worker
TOLD = {"approved": "approve", "denied": "deny", "paused": "pause", "withdrawn": "withdraw"}


@dataclass(frozen=True)
class Seen:
    """The newest status of the worker; None while it does not answer."""

    status: Any = None


@final
class WorkerWatch:
    """Follows the worker's status in a thread of its own."""

    def __init__(self, site: SiteFolder) -> None:
        self._site = site
        self.seen = Seen()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _follow(self) -> None:
        while True:
            with grpc.insecure_channel(f"unix:{self._site.worker_socket}") as channel:
                try:
                    stub: Any = WorkerStub(channel)  # type: ignore[no-untyped-call]
                    for status in stub.Watch(worker_pb2.WatchRequest()):
                        self.seen = Seen(status)
                except grpc.RpcError:
                    self.seen = Seen()
            time.sleep(0.5)


@final
class Agent:
    """One site's.

    Args:
        site: Its folder.
        watch: Of its worker.
    """

    def __init__(self, site: SiteFolder, watch: WorkerWatch) -> None:
        self._site, self._watch = site, watch
        self._hub: Hub | None = None
        self._offers = Offers(site.path / "offers")
        self._consent = Consent(site.path / "consent")
        self._told: dict[str, str] = {}
        self._progress: dict[str, pb.Progress] = {}
        self._reported = self._offered = 0.0
        self._began = time.monotonic()
        self._request: str | None = None
        self._sentences: list[str] = []
        self._trouble = ""
        self._signer = SiteSigner(site.path, site.keys.audit_key)
        self._instance = secrets.token_hex(8)

    def look(self) -> float:
        """Do what is due; return the seconds to wait before the next look."""
        try:
            self._do()
        except FedsegError as error:
            self._note_trouble(str(error))
            if self._hub is not None:
                self._hub.close()
                self._hub = None
            return REVOKED_PAUSE_SECONDS if isinstance(error, RefusedError) else 2.0
        self._note_trouble("")
        return 0.25

    def _do(self) -> None:
        if self._hub is None:
            self._hub = self._site.hub()
            self._told = {}
        status = self._watch.seen.status
        busy = status is not None and status.phase not in ("", "idle")
        now = time.monotonic()
        # or the hub would leave the site out of a round because of a new agent
        heard = status is not None or now - self._began > HEAR_SECONDS
        if heard and now - self._reported >= (WORKING_SECONDS if busy else REPORT_SECONDS):
            self._report(self._hub, status)
            self._reported = now
        if now - self._offered >= OFFERS_SECONDS:
            self._offers.keep(self._hub.studies())
            self._offered = now
        self._tell_decisions(self._hub)
        self._signer.look()

    def _report(self, hub: Hub, status: Any) -> None:
        if status is not None and status.run:
            self._progress = {
                status.run: pb.Progress(
                    run=status.run, round=status.round, phase=status.phase, done=status.done,
                    total=status.total, bytes_in=status.bytes_in, bytes_out=status.bytes_out,
                )
            }  # fmt: skip
        reason = "the site's worker does not answer" if status is None else status.reason
        reply = hub.report(
            pb.ReportRequest(
                version=version("fedseg"), ready=status is not None and status.ready,
                reason=reason, progress=list(self._progress.values()), clock=time.time(),
                instance=self._instance,
            )
        )  # fmt: skip
        if list(reply.sentences) != self._sentences:
            self._sentences = list(reply.sentences)
            for sentence in self._sentences:
                emit(SITE, "hub_says", sentence=sentence)
        if reply.renew:
            self._renew(hub)
        self._write_status(status)

    def _renew(self, hub: Hub) -> None:
        keys = self._site.keys
        if self._request is None:
            self._request = keys.new_tls_key(self._site.settings.site)
        reply = hub.renew(self._request)
        if reply.state == "issued":
            keys.install(
                reply.certificate_pem, site=self._site.settings.site, now=datetime.now(UTC)
            )
            self._request = None
            emit(SITE, "certificate_renewed", until=keys.expires().isoformat())
            hub.close()
            self._hub = None

    def _tell_decisions(self, hub: Hub) -> None:
        for hash_ in self._offers.hashes():
            decision = TOLD.get(self._consent.standing(hash_).state, "")
            if decision and self._told.get(hash_) != decision:
                hub.decide(hash_, decision)
                self._told[hash_] = decision
                emit(SITE, "decision_told", study=hash_, decision=decision)

    def _note_trouble(self, sentence: str) -> None:
        if sentence != self._trouble:
            self._trouble = sentence
            emit(SITE, "hub_reached" if not sentence else "hub_trouble", reason=sentence)
            self._write_status(self._watch.seen.status)

    def _write_status(self, status: Any) -> None:
        told: Mapping[str, Any] = (
            {} if status is None else
            {"run": status.run, "round": status.round, "phase": status.phase,
             "done": status.done, "total": status.total, "ready": status.ready}
        )  # fmt: skip
        file = self._site.path / "run" / "agent.json"
        with suppress(StorageError):  # a full disk; the hub is to hear of the site all the same
            write_json(
                file,
                {"time": time.time(), "hub": self._trouble or "reached", "worker": dict(told),
                 "sentences": self._sentences},
            )  # fmt: skip


def main() -> None:
    """Work until told to end."""
    try:
        site = SiteFolder.open(Path(sys.argv[1]))
        SITE.setLevel(logging.INFO)
        SITE.addHandler(JsonLines(site.path / "log" / "agent.jsonl"))
        audit(site.path)
        watch = WorkerWatch(site)
        agent = Agent(site, watch)
    except FedsegError as error:
        sys.exit(f"agent: {error}")
    watch.start()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    while not stop.wait(agent.look()):
        pass


if __name__ == "__main__":
    main()
