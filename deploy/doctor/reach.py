"""Whether a site reaches its hub: over TCP and TLS first, then with its own certificate."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from common.errors import FedsegError, InputError, RefusedError
from common.wire import control_pb2 as pb
from deploy.doctor.finding import Finding, broken, fine
from deploy.provision.fetch_root import fetch_root, proxy_for
from deploy.provision.tokens import split_address
from deploy.supervise.site_folder import SiteFolder

NEW_SECONDS = 60.0
LOOKING = "its worker does not run; its people are looking at it with fedseg doctor"
Fetch = Callable[[str, str], bytes]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the hub's control service said.

    Attributes:
        offset_s: This clock minus the hub's, seconds; None where it did not answer.
        trouble: Why it did not answer; empty where it did.
        refused: Whether it answered, and refused.
        sentences: For the site's people.
    """

    offset_s: float | None = None
    trouble: str = ""
    refused: bool = False
    sentences: tuple[str, ...] = ()


def way_to_hub(address: str, fingerprint: str, fetch: Fetch = fetch_root) -> Finding:
    """Say whether the hub answers over TLS with the root that this site trusts.

    Args:
        address: ``host:port``.
        fingerprint: SHA-256 of the root certificate, hexadecimal.
        fetch: Fetches the root; raises where it cannot.
    """
    what = "way to the hub"
    try:
        host, _ = split_address(address)
        by = proxy_for(host)
        fetch(address, fingerprint)
    except InputError as error:
        return broken(what, str(error), "mend the address or the proxy variables")
    except RefusedError as error:
        return broken(what, str(error), "show this line to your network team: docs/firewall.md")
    except FedsegError as error:
        return broken(
            what, str(error), "one outgoing TCP connection is needed: docs/firewall.md"
        )
    words = f"{address} answers over TLS as the hub that invited this site"
    return fine(what, f"{words}, by the proxy {by.hostname}" if by else words)


def admission(answer: Answer) -> Finding:
    """Say whether the hub takes the site's own certificate."""
    what = "hub's answer"
    if answer.refused:
        return broken(what, answer.trouble, "ask the coordinator")
    if answer.trouble:
        return broken(what, answer.trouble, "wait a minute, then ask the coordinator")
    said = "; ".join(answer.sentences)
    return fine(what, f"this site is admitted{': ' + said if said else ''}")


def ask_hub(site: SiteFolder, clock: Callable[[], float] = time.time) -> Answer:
    """Report to the hub once, with the readiness that the agent reported last."""
    ready = _was_ready(site, clock())
    request = pb.ReportRequest(
        version=version("fedseg"), ready=ready, reason="" if ready else LOOKING, clock=clock()
    )
    before = clock()
    try:
        with site.hub() as hub:
            reply = hub.report(request)
    except FedsegError as error:
        return Answer(trouble=str(error), refused=isinstance(error, RefusedError))
    middle = (before + clock()) / 2
    return Answer(offset_s=middle - reply.clock, sentences=tuple(reply.sentences))


def _was_ready(site: SiteFolder, now: float) -> bool:
    """Whether the worker was ready a moment ago; the doctor must not make it look otherwise."""
    try:
        told = json.loads((site.path / "run" / "agent.json").read_text(encoding="utf-8"))
        return bool(told["worker"]["ready"]) and now - float(told["time"]) < NEW_SECONDS
    except (OSError, ValueError, KeyError, TypeError):
        return False
