"""A site's calls to its hub's control service, over mutual TLS."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, final

import grpc

from common.errors import RefusedError, RunError
from common.wire import control_pb2 as pb
from common.wire.control_pb2_grpc import ControlStub, EnrolmentStub

CALL_SECONDS = 20.0
LARGEST_MESSAGE_BYTES = 16 << 20
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """Where a hub is and how to know it and be known.

    Attributes:
        address: ``host:port``.
        root: Root certificate, PEM.
        certificate: The site's certificate and its issuer's, PEM; empty before it has one.
        key: Its private key, PEM.
    """

    address: str
    root: bytes
    certificate: bytes = b""
    key: bytes = b""


def use_proxy_settings() -> None:
    """Make both spellings of the proxy variables agree; gRPC reads the lower-case ones alone.

    Loopback is never sent to a proxy.
    """
    for name in ("https_proxy", "no_proxy"):
        value = os.environ.get(name) or os.environ.get(name.upper()) or ""
        if name == "no_proxy":
            held = [part for part in value.split(",") if part]
            value = ",".join(dict.fromkeys([*held, "127.0.0.1", "localhost"]))
        if value:
            os.environ[name] = os.environ[name.upper()] = value


@final
class Hub:
    """An open channel to the control service.

    Args:
        hub: Where it is.

    A call raises RunError where the hub cannot be reached or cannot answer, and RefusedError
    where it refuses, both with a sentence for a person.
    """

    def __init__(self, hub: HubAddress) -> None:
        use_proxy_settings()
        credentials = grpc.ssl_channel_credentials(
            hub.root, hub.key or None, hub.certificate or None
        )
        self._address = hub.address
        self._channel = grpc.secure_channel(
            hub.address,
            credentials,
            options=[
                ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.min_reconnect_backoff_ms", 500),
                ("grpc.max_reconnect_backoff_ms", 10_000),
            ],
        )
        self._control: Any = ControlStub(self._channel)  # type: ignore[no-untyped-call]
        self._enrolment: Any = EnrolmentStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def join(self, request: pb.JoinRequest) -> pb.JoinReply:
        """Ask to be admitted."""
        reply: pb.JoinReply = self._call(self._enrolment.Join, request)
        return reply

    def studies(self) -> Sequence[pb.Offer]:
        """Return the studies on offer."""
        return list(self._call(self._control.Studies, pb.StudiesRequest()).offers)

    def decide(self, hash_: str, decision: str) -> None:
        """Tell what the site's people decided."""
        request = pb.DecideRequest(hash=hash_, decision=decision, decided=time.time())
        self._call(self._control.Decide, request)

    def report(self, request: pb.ReportRequest) -> pb.ReportReply:
        """Say that the site is there and how far it is."""
        reply: pb.ReportReply = self._call(self._control.Report, request)
        return reply

    def runs(self) -> Sequence[pb.RunSummary]:
        """Return the runs that the site takes or took part in."""
        return list(self._call(self._control.Runs, pb.RunsRequest()).runs)

    def renew(self, request_pem: str) -> pb.RenewReply:
        """Ask for the next certificate."""
        reply: pb.RenewReply = self._call(
            self._control.Renew, pb.RenewRequest(request_pem=request_pem)
        )
        return reply

    def fetch(self, run: str, file: str, target: Path) -> int:
        """Fetch a file of a run, whole or not at all; return its size in bytes."""
        from common.files import writing

        size = 0
        with writing(target) as out:
            try:
                for chunk in self._control.Fetch(pb.FetchRequest(run=run, file=file)):
                    out.write(chunk.data)
                    size += len(chunk.data)
            except grpc.RpcError as error:
                raise _told(error, self._address) from error
        return size

    def _call(self, call: Callable[..., T], request: Any) -> T:
        try:
            return call(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise _told(error, self._address) from error


def _told(error: Any, address: str) -> Exception:
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return RefusedError(
            f"hub {address}: does not accept this site's certificate; it was revoked or has "
            "expired: ask the coordinator"
        )
    if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT):
        return RefusedError(f"hub {address}: {details}")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return RunError(f"hub {address}: too many calls; wait a minute")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return RunError(f"hub {address}: did not answer in {CALL_SECONDS:.0f} s; try again")
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return RunError(f"hub {address}: {_distrust(details)}")
    return RunError(f"hub {address}: cannot be reached: {details[:300]}")


def _distrust(details: str) -> str:
    """Say what keeps a certificate from being trusted, which most often is the clock."""
    now = f"this machine's clock says {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    if "not yet valid" in details:
        return f"its certificate is not valid yet; {now}: set it right"
    if "expired" in details:
        return f"its certificate has expired; {now}: set it right, or tell the coordinator"
    return (
        "its certificate is not from this federation's authority; it is another hub, or "
        "somebody stands in between: call the coordinator"
    )
