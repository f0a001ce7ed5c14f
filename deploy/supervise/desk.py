"""What the coordinator asks of a hub; the registrar then does it."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import InputError, RefusedError, RunError
from common.events import HUB, emit
from common.parameters import table_of
from common.study.load import load_study
from common.study.study import Study, approval_hash, canonical_json
from deploy.provision.authority import Authorities
from deploy.provision.nginx import NginxSettings, reload, write_configuration
from deploy.provision.pem_files import write_key
from deploy.provision.tokens import Invitation, secret_hash
from deploy.supervise.hub_folder import HubFolder, HubSettings
from server.auditing import audit
from server.registry import (
    ADMITTED,
    FINISHED,
    INVITED,
    MATRIX_SUFFIX,
    QUEUED,
    REVOKED,
    REVOKING,
    RUNNING,
    WAITING,
    WANTED,
    Registry,
    RunRow,
    SiteRow,
    StudyRow,
    now,
)
from server.run import RunInfo, read_run

DAY = 86_400
REGISTRAR_SECONDS = 30.0


def make_hub(folder: Path, settings: HubSettings) -> HubFolder:
    """Make a hub's folder, its authorities and the proxy's configuration."""
    hub = HubFolder.create(folder, settings)
    write_key(hub.audit_key, Ed25519PrivateKey.generate())
    Authorities.create(hub.pki, [settings.host.strip("[]")], datetime.now(UTC))
    write_configuration(
        NginxSettings(
            folder=hub.nginx, pki=hub.pki, host=settings.listen, port=settings.port,
            superlink_port=settings.superlink_port, control_socket=hub.control_socket,
            user=settings.user or ("root" if os.geteuid() == 0 else None),
        )
    )  # fmt: skip
    audit(hub.path)
    emit(HUB, "hub_made", address=settings.address)
    return hub


def invite_site(hub: HubFolder, site: str, days: int) -> str:
    """Invite a site; return the line for its people.

    Raises:
        InputError: If the site is admitted already, or the name is none.
    """
    held = hub.registry.row(SiteRow, name=site)
    if held is not None and held.state in (WANTED, ADMITTED, REVOKING):
        raise InputError(f"{site}: is {held.state}; revoke it before you invite it anew")
    fingerprint = Authorities.open(hub.pki).fingerprint()
    invitation = Invitation.new(hub.settings.address, site, fingerprint=fingerprint)
    hub.registry.put(
        SiteRow, {"name": site}, state=INVITED, invited=now(), expires=now() + days * DAY,
        secret_hash=secret_hash(invitation.secret, site), code="", request_pem="", node_key="",
        certificate_pem="", serial="", node_id="",
    )  # fmt: skip
    emit(HUB, "site_invited", site=site, days=days)
    return invitation.encode()


def admit_site(hub: HubFolder, site: str, code: str) -> None:
    """Admit a site that asked with this code, and wait until it is.

    Raises:
        RefusedError: If the code is another, or nobody asked.
        RunError: If the hub does not run.
    """
    row = hub.registry.site(site)
    if row.state != WAITING:
        raise RefusedError(f"{site}: is {row.state}; only a site that joined can be admitted")
    if "".join(code.upper().split()).replace("-", "") != row.code.replace("-", ""):
        raise RefusedError(
            f"{site}: the code is not the one of the keys that asked; somebody else may have "
            "used the invitation. Do not admit it; invite the site anew"
        )
    hub.registry.change(SiteRow, {"name": site, "state": WAITING}, state=WANTED)
    _wait(hub.registry, site, ADMITTED)


def revoke_site(hub: HubFolder, site: str) -> None:
    """Cut a site off and wait until it is.

    Raises:
        RunError: If the hub does not run.
    """
    row = hub.registry.site(site)
    if row.state in (INVITED, WAITING):
        hub.registry.change(SiteRow, {"name": site}, state=REVOKED, secret_hash="")
        return
    if row.state != REVOKED:
        hub.registry.change(SiteRow, {"name": site}, state=REVOKING)
        _wait(hub.registry, site, REVOKED)


def _wait(registry: Registry, site: str, state: str) -> None:
    until = time.monotonic() + REGISTRAR_SECONDS
    while registry.site(site).state != state:
        if time.monotonic() > until:
            raise RunError(
                f"{site}: noted, but not {state} yet: is the hub running? Start it with "
                "fedseg hub serve; log/registrar.jsonl has the story"
            )
        time.sleep(0.1)


def renew_hub(hub: HubFolder, *, authorities: bool) -> Iterator[str]:
    """Renew the hub's certificates and lists, which the registrar does for all but the root's.

    Args:
        hub: The hub.
        authorities: Whether to renew the issuing authorities first.

    Yields:
        What was done, for the coordinator.
    """
    held, moment = Authorities.open(hub.pki), datetime.now(UTC)
    if authorities:
        held.renew_intermediates(moment)
        yield f"authorities until {held.intermediates_expire():%Y-%m-%d}"
    held.renew_server(moment)
    emit(HUB, "server_certificate_renewed")
    yield f"the hub's certificates until {held.server_expires():%Y-%m-%d}"
    held.write_crl(moment)
    emit(HUB, "revocation_list_renewed")
    yield f"revocation lists: the first of them ends on {held.crl_expires():%Y-%m-%d}"
    try:
        reload(hub.nginx)
    except RunError as error:
        yield f"the proxy did not read them anew ({error}); start it again if it runs"
    yield "the SuperLink reads its certificate when it is next started"


def start_study(
    hub: HubFolder,
    source: Path,
    note: str,
    *,
    encoder: Path | None = None,
    told: Callable[[str], None] = lambda _sentence: None,
) -> RunRow:
    """Offer a study and queue a run of it.

    Args:
        hub: The hub.
        source: A study file, which is built here, or the folder of a built one.
        note: For the people at the sites.
        encoder: File of the weights that the study names for its encoder.
        told: Called with what was taken of it.

    Raises:
        InputError: If the study cannot be built, or its run is at the hub already.
    """
    if encoder is not None and (source / "run.json").exists():
        raise InputError(
            f"{source}: is built already, with its encoder's weights; give it alone"
        )
    with tempfile.TemporaryDirectory(dir=hub.path) as held:
        built = source
        if not (source / "run.json").exists():
            built = Path(held) / "run"
            _built(load_study(source), built, encoder, told)
        info = read_run(built)
        folder = hub.runs / info.run
        if folder.exists():
            raise InputError(f"{source}: run {info.run} is at the hub already")
        shutil.copytree(built, folder)
    size = sum(p.size_bytes for p in table_of(folder / "initial.safetensors").values())
    offer_study(hub, info.typed_study, note, round_bytes=size)
    return _queue(hub, info, folder)


def start_trial(hub: HubFolder, study: Study) -> RunRow:
    """Queue a run of one trial of a search that is on offer.

    Raises:
        InputError: If the study cannot be built.
    """
    with tempfile.TemporaryDirectory(dir=hub.path) as held:
        info = _built(study, Path(held) / "run", None)
        folder = hub.runs / info.run
        shutil.copytree(Path(held) / "run", folder)
    return _queue(hub, info, folder)


def offer_study(hub: HubFolder, study: Study, note: str, *, round_bytes: int) -> str:
    """Offer a study, or a search by any trial of it; return what sites approve.

    Args:
        hub: The hub.
        study: The study.
        note: For the people at the sites.
        round_bytes: Of the weights one way; 0 where they differ from trial to trial.
    """
    hash_ = approval_hash(study)
    name = study.name + (" (search)" if study.search is not None else "")
    hub.registry.put(
        StudyRow, {"hash": hash_}, name=name, text=canonical_json(study), offered=now(),
        round_bytes=round_bytes, note=note, open=1,
    )  # fmt: skip
    emit(HUB, "study_offered", study=hash_, bytes=round_bytes)
    return hash_


def _queue(hub: HubFolder, info: RunInfo, folder: Path) -> RunRow:
    hash_ = approval_hash(info.typed_study)
    hub.registry.put(
        RunRow, {"run": info.run}, hash=hash_, folder=str(folder), state=QUEUED,
        wanted=RUNNING, created=now(),
    )  # fmt: skip
    emit(HUB, "run_queued", run=info.run, study=hash_)
    return hub.registry.run(info.run)


def _built(
    study: Study,
    folder: Path,
    encoder: Path | None,
    told: Callable[[str], None] = lambda _sentence: None,
) -> RunInfo:
    try:
        from deploy.simulation.build import build_run

        return build_run(study, folder, {}, encoder=encoder, told=told)
    except ImportError as error:
        raise InputError(
            f"study {study.name}: drawing the first weights needs torch and MONAI, which a hub "
            "need not have; build it elsewhere with fedseg study build, and give the folder"
        ) from error


def queue_matrix(hub: HubFolder, name: str) -> RunRow:
    """Queue the scoring of all models of a finished run at all sites.

    Raises:
        InputError: If the run is not finished.
    """
    row = hub.registry.run(name)
    if row.state != FINISHED:
        raise InputError(f"run {row.run}: is {row.state}; only a finished run has final models")
    matrix = row.run + MATRIX_SUFFIX
    hub.registry.put(
        RunRow, {"run": matrix}, hash=row.hash, folder=row.folder, state=QUEUED,
        wanted=RUNNING, created=now(), attempts=0,
    )  # fmt: skip
    emit(HUB, "run_queued", run=matrix, study=row.hash)
    return next(r for r in hub.registry.rows(RunRow) if r.run == matrix)


def want_run(hub: HubFolder, name: str, wanted: str) -> str:
    """Say what a run should be: running, paused or stopped."""
    row = hub.registry.run(name)
    hub.registry.change(RunRow, {"run": row.run}, wanted=wanted)
    emit(HUB, "run_wanted", run=row.run, wanted=wanted)
    if wanted == RUNNING and row.state not in (RUNNING, QUEUED, "finished"):
        hub.registry.change(RunRow, {"run": row.run}, state=QUEUED, attempts=0)
    return row.run


def close_study(hub: HubFolder, start: str) -> str:
    """Offer a study no longer; sites that approved it keep their decision."""
    found = [row.hash for row in hub.registry.rows(StudyRow) if row.hash.startswith(start)]
    if len(found) != 1:
        raise InputError(f"study {start!r}: {len(found)} studies begin so")
    hub.registry.change(StudyRow, {"hash": found[0]}, open=0)
    emit(HUB, "study_closed", study=found[0])
    return found[0]
