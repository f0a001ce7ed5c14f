"""The control service: what each call does, and who may make it.

The socket that it listens on can be opened by the proxy alone, so the caller's name in the
metadata, which the proxy takes from the verified client certificate, can be trusted.
"""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import final

import grpc

from common.errors import FedsegError, InputError
from common.events import HUB, emit
from common.wire import control_pb2 as pb
from common.wire.control_pb2_grpc import ControlServicer
from server.control.answering import answering
from server.control.enrolment import LARGEST_PEM
from server.control.limits import RateLimit
from server.control.machines import Machines
from server.control.results import files_of, sending
from server.registry import (
    ADMITTED,
    DECISIONS,
    REVOKED,
    REVOKING,
    DecisionRow,
    ProgressRow,
    Registry,
    RunRow,
    SiteRow,
    StudyRow,
    now,
)
from server.run import read_run

CALLER = "x-client-cn"
SERIAL = "x-client-serial"
LARGEST_PROGRESS = 64
HASH = re.compile(r"[0-9a-f]{64}")
CLOCK_WARNING_SECONDS = 120
SECOND_MACHINE = (
    "another machine reports as this site, with its keys: stop one of the two; if the other is "
    "not yours, tell the coordinator: the site's folder may have been copied"
)


@final
class ControlService(ControlServicer):
    """The calls of admitted sites.

    Args:
        registry: The hub's.
        renew_before_seconds: How long before its end a certificate should be renewed.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        renew_before_seconds: float,
        clock: Callable[[], float] = now,
    ) -> None:
        self._registry, self._renew_before, self._clock = registry, renew_before_seconds, clock
        self._limit = RateLimit(10.0, 60, clock)
        self._machines, self._doubled = Machines(clock), set[str]()

    def _site(self, context: grpc.ServicerContext) -> SiteRow:
        """Return who is calling, or end the call."""
        told = dict(context.invocation_metadata())
        name, serial = str(told.get(CALLER, "")), str(told.get(SERIAL, "")).lower()
        if not name or not self._limit.allows(name):
            code = (
                grpc.StatusCode.RESOURCE_EXHAUSTED if name else grpc.StatusCode.UNAUTHENTICATED
            )
            context.abort(code, "too many calls; wait" if name else "no client certificate")
        row = self._registry.row(SiteRow, name=name)
        if row is None or row.state != ADMITTED or not serial:
            is_revoked = row is not None and row.state in (REVOKING, REVOKED)
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "the site was revoked; ask the coordinator"
                if is_revoked
                else "the site is not admitted",
            )
            raise AssertionError
        return row

    @answering
    def Studies(
        self, request: pb.StudiesRequest, context: grpc.ServicerContext
    ) -> pb.StudiesReply:
        """List the studies on offer."""
        del request
        self._site(context)
        return pb.StudiesReply(
            offers=[
                pb.Offer(
                    hash=row.hash, study=row.text, offered=row.offered,
                    round_bytes=row.round_bytes, note=row.note,
                )
                for row in self._registry.rows(StudyRow, open=1)
            ]
        )  # fmt: skip

    @answering
    def Decide(
        self, request: pb.DecideRequest, context: grpc.ServicerContext
    ) -> pb.DecideReply:
        """Write down what the site's people decided."""
        site = self._site(context)
        if request.decision not in DECISIONS:
            raise InputError(f"decision: expected one of {', '.join(DECISIONS)}")
        if not HASH.fullmatch(request.hash) or not self._registry.row(
            StudyRow, hash=request.hash
        ):
            raise InputError("study: the hub offers no study of this hash")
        held = self._registry.row(DecisionRow, site=site.name, hash=request.hash)
        if held is None or held.decision != request.decision:
            self._registry.put(
                DecisionRow, {"site": site.name, "hash": request.hash},
                decision=request.decision, decided=self._clock(),
            )  # fmt: skip
            emit(
                HUB,
                "decided",
                site=site.name,
                study=request.hash,
                decision=request.decision,
            )
        return pb.DecideReply()

    @answering
    def Report(
        self, request: pb.ReportRequest, context: grpc.ServicerContext
    ) -> pb.ReportReply:
        """Note that a site is there and how far it is; say what it should know."""
        site, now_ = self._site(context), self._clock()
        offset = request.clock - now_ if request.clock else 0.0
        doubled = self._is_doubled(site.name, request.instance)
        self._registry.change(
            SiteRow, {"name": site.name}, version=request.version[:40], seen=now_,
            ready=int(request.ready), reason=request.reason[:200], clock_offset=offset,
            **({"doubled": now_} if doubled else {}),
        )  # fmt: skip
        runs = {row.run for row in self._registry.rows(RunRow)}
        self._registry.note_progress(
            [
                ProgressRow(
                    site=site.name, run=p.run, round=p.round, phase=p.phase[:20], done=p.done,
                    total=p.total, bytes_in=p.bytes_in, bytes_out=p.bytes_out, moved=now_,
                )
                for p in request.progress[:LARGEST_PROGRESS]
                if p.run in runs
            ]
        )  # fmt: skip
        renew = site.certificate_ends - now_ < self._renew_before
        sentences = [SECOND_MACHINE] if doubled else []
        sentences += _advice(request.version, offset)
        return pb.ReportReply(clock=now_, renew=renew, sentences=sentences)

    def _is_doubled(self, site: str, instance: str) -> bool:
        """Whether two machines report as a site; written down when it begins."""
        doubled = self._machines.are_two(site, instance)
        if doubled and site not in self._doubled:
            self._doubled.add(site)
            emit(HUB, "second_machine", site=site)
        elif not doubled:
            self._doubled.discard(site)
        return doubled

    @answering
    def Runs(self, request: pb.RunsRequest, context: grpc.ServicerContext) -> pb.RunsReply:
        """List the runs of studies that the site approved at some time."""
        del request
        site = self._site(context)
        known = {d.hash for d in self._registry.rows(DecisionRow, site=site.name)}
        rows = [row for row in self._registry.rows(RunRow) if row.hash in known]
        return pb.RunsReply(runs=[_summary(row, site.name) for row in rows])

    @answering
    def Fetch(
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.Chunk]:
        """Send one file of a run, as this site may have it."""
        site = self._site(context)
        row = self._registry.row(RunRow, run=request.run)
        if row is None:
            raise InputError("run: the hub has no such run")
        size, sent = sending(Path(row.folder), site.name, request.file)
        emit(HUB, "fetched", site=site.name, run=row.run, file=request.file, bytes=size)
        return (pb.Chunk(data=piece) for piece in sent)

    @answering
    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RenewReply:
        """Note a request for the next certificate, or hand it out."""
        site = self._site(context)
        pem = request.request_pem
        if not pem.startswith("-----BEGIN CERTIFICATE REQUEST-----") or len(pem) > LARGEST_PEM:
            raise InputError("request: expected a certificate request in PEM")
        if site.request_pem == pem and site.certificate_pem:
            return pb.RenewReply(state="issued", certificate_pem=site.certificate_pem)
        if site.renewal_pem != pem:
            self._registry.change(SiteRow, {"name": site.name}, renewal_pem=pem)
            emit(HUB, "renewal_asked", site=site.name)
        return pb.RenewReply(state="waiting")


def _advice(release: str, offset: float) -> Iterator[str]:
    """Yield what a site's people should put right: a clock, a release."""
    if abs(offset) > CLOCK_WARNING_SECONDS:
        yield (
            f"this machine's clock is {abs(offset):.0f} seconds "
            f"{'ahead of' if offset > 0 else 'behind'} the hub's; set it right: "
            "Flower refuses a node whose clock is more than 5 minutes off"
        )
    if release not in ("", own := version("fedseg")):
        yield (
            f"this site has fedseg {release[:40]!r}, the hub has {own!r}; "
            "a site takes part only with the hub's release: install that one"
        )


def _summary(row: RunRow, site: str) -> pb.RunSummary:
    folder = Path(row.folder)
    try:
        study = read_run(folder).typed_study
        name, rounds, files = study.name, study.federation.rounds, files_of(folder, site)
    except FedsegError:
        name, rounds, files = "", 0, []
    return pb.RunSummary(
        run=row.run, hash=row.hash, name=name, state=row.state, round=row.round, rounds=rounds,
        files=files, sentence=row.sentence,
    )  # fmt: skip
