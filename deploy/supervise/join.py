"""Joining a federation: keys made at the site, a request to the hub, a code to compare."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from client.hub import Hub, HubAddress
from client.profile import load_profile
from common.errors import InputError, RefusedError, RunError
from common.wire import control_pb2 as pb
from deploy.provision.fetch_root import fetch_root
from deploy.provision.site_keys import SiteKeys
from deploy.provision.tokens import Invitation
from deploy.supervise.site_folder import SiteFolder, SiteSettings, free_port

ASK_SECONDS = 1.0


def join_hub(
    line: str, folder: Path, profile: Path, *, wait_seconds: float, tell: Callable[[str], None]
) -> SiteFolder:
    """Make a site's folder and keys and have it admitted; goes on where it was interrupted.

    Args:
        line: The invitation.
        folder: Of the site.
        profile: Its profile; its name must be the invited one.
        wait_seconds: How long to wait for the coordinator.
        tell: Called with lines for the person at the site.

    Raises:
        InputError: If invitation or profile cannot be used.
        RefusedError: If the hub refuses, or is not the one that invited.
        RunError: If the coordinator did not admit the site in time; call again.
    """
    invitation = Invitation.decode(line)
    named = load_profile(profile).name
    if named != invitation.site:
        raise InputError(
            f"{profile}: name: is {named!r}, but the invitation is for {invitation.site!r}; "
            "one of the two must change"
        )
    if (folder / "site.json").exists():
        raise InputError(f"{folder}: holds a site already; choose another folder")
    root = fetch_root(invitation.address, invitation.fingerprint)
    keys_folder = folder / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    made = keys_folder.exists()
    keys = SiteKeys.open(keys_folder) if made else SiteKeys.create(keys_folder)
    tell(f"keys: {keys.folder} (they never leave it)")
    tell(f"code: {keys.short_code(invitation.fingerprint)}")
    tell("read the code to the coordinator over the telephone; waiting to be admitted ...")
    reply = _ask(invitation, keys, root, wait_seconds, tell)
    keys.install(
        reply.certificate_pem, site=invitation.site, now=datetime.now(UTC), root_pem=root
    )
    settings = SiteSettings(
        site=invitation.site, address=invitation.address, fingerprint=invitation.fingerprint,
        profile=str(profile.resolve()), runtime_port=free_port(),
        metrics_port=free_port(),
    )  # fmt: skip
    return SiteFolder.create(folder, settings)


def _ask(
    invitation: Invitation,
    keys: SiteKeys,
    root: bytes,
    wait_seconds: float,
    tell: Callable[[str], None],
) -> pb.JoinReply:
    request = pb.JoinRequest(
        site=invitation.site, secret=invitation.secret, request_pem=keys.csr(invitation.site),
        node_key=keys.node_public_ssh(), audit_key=keys.audit_public(),
        version=version("fedseg"),
    )  # fmt: skip
    until, trouble = time.monotonic() + wait_seconds, ""
    with Hub(HubAddress(address=invitation.address, root=root)) as hub:
        while True:
            try:
                reply = hub.join(request)
            except RunError as error:
                if time.monotonic() > until:
                    raise
                if str(error) != trouble:
                    trouble = str(error)
                    tell(f"{trouble}; tried again until the wait is over")
            else:
                if reply.state == "admitted":
                    return reply
                if reply.state == "refused":
                    raise RefusedError(f"hub {invitation.address}: {reply.sentence}")
            if time.monotonic() > until:
                raise RunError(
                    f"{invitation.site}: not admitted in {wait_seconds:.0f} s; call the "
                    "coordinator, then give the same command again"
                )
            time.sleep(ASK_SECONDS)
