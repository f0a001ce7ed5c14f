"""The one call without a client certificate: asking to be admitted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import grpc

from common.events import HUB, emit
from common.messages import SITE_NAME
from common.wire import control_pb2 as pb
from common.wire.control_pb2_grpc import EnrolmentServicer
from server.control.answering import answering
from server.control.limits import RateLimit
from server.registry import (
    ADMITTED,
    INVITED,
    REVOKED,
    REVOKING,
    WAITING,
    Registry,
    SiteRow,
    now,
)

LARGEST_PEM = 16_384


@dataclass(frozen=True, kw_only=True)
class Invitations:
    """How an invitation is checked; the wiring gives the functions.

    Attributes:
        matches: (secret, site, stored hash) to whether the secret is the invitation's.
        code: (request PEM, node key) to the short code that both sides read to each other;
            raises InputError for a request or key that cannot be admitted.
    """

    matches: Callable[[bytes, str, str], bool]
    code: Callable[[str, str], str]


@final
class EnrolmentService(EnrolmentServicer):
    """The one call without a client certificate.

    Args:
        registry: The hub's.
        invitations: How they are checked.
        root: Root certificate, PEM.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        registry: Registry,
        invitations: Invitations,
        root: str,
        clock: Callable[[], float] = now,
    ) -> None:
        self._registry, self._invitations, self._root = registry, invitations, root
        self._clock = clock
        self._limit = RateLimit(2.0, 20, clock)

    @answering
    def Join(self, request: pb.JoinRequest, context: grpc.ServicerContext) -> pb.JoinReply:
        """Note a request to be admitted, or hand out the certificate of one that was."""
        if not self._limit.allows("everybody"):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests; wait a minute"
            )
        return self._join(request)

    def _join(self, request: pb.JoinRequest) -> pb.JoinReply:
        row = self._registry.row(SiteRow, name=request.site)
        fits = (
            SITE_NAME.fullmatch(request.site) is not None
            and len(request.request_pem) < LARGEST_PEM
        )
        # the same sentence for an unknown site and a wrong secret: neither can be probed
        stored = row.secret_hash if row is not None else ""
        if not fits or not self._invitations.matches(request.secret, request.site, stored):
            emit(HUB, "join_refused", reason="unknown invitation")
            return _refused("the hub has no such invitation; ask the coordinator for a new one")
        assert row is not None  # noqa: S101 - a hash matched
        if row.state in (REVOKING, REVOKED):
            return _refused("the site was revoked; ask the coordinator for a new invitation")
        if row.state == INVITED:
            if self._clock() > row.expires:
                return _refused("the invitation has expired; ask the coordinator for a new one")
            return self._note(request)
        if self._invitations.code(request.request_pem, request.node_key) != row.code:
            emit(HUB, "join_refused", site=row.name, reason="invitation used by other keys")
            return _refused(
                "the invitation was used already, with other keys; tell the coordinator: "
                "if that was not you, somebody else has it"
            )
        if row.state == ADMITTED and row.certificate_pem:
            return pb.JoinReply(
                state="admitted", certificate_pem=row.certificate_pem, root_pem=self._root,
                sentence="admitted",
            )  # fmt: skip
        return _waiting()

    def _note(self, request: pb.JoinRequest) -> pb.JoinReply:
        code = self._invitations.code(request.request_pem, request.node_key)
        noted = self._registry.change(
            SiteRow, {"name": request.site, "state": INVITED}, state=WAITING,
            request_pem=request.request_pem, node_key=request.node_key, code=code,
            audit_key=request.audit_key[:64], version=request.version[:40],
        )  # fmt: skip
        if not noted:  # another request was faster
            return self._join(request)
        emit(HUB, "join_asked", site=request.site, code=code)
        return _waiting()


def _refused(sentence: str) -> pb.JoinReply:
    return pb.JoinReply(state="refused", sentence=sentence)


def _waiting() -> pb.JoinReply:
    return pb.JoinReply(
        state="waiting", sentence="waiting for the coordinator to admit the site"
    )
