"""The checks of a hub."""

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509

from common.errors import FedsegError
from deploy.doctor import certificates, machine, versions
from deploy.doctor.facts import disk_of, everywhere, installed
from deploy.doctor.finding import Finding, broken, fine, odd
from deploy.doctor.ports import look_at_port, port
from deploy.doctor.processes import alive, processes, programs_of
from deploy.doctor.secrecy import entries_of, keys, top_of
from deploy.provision.authority import PURPOSES, Authorities
from deploy.provision.nginx import command
from deploy.provision.pem_files import read_certificate
from deploy.provision.pki_files import PkiFiles
from deploy.provision.private_files import read_file
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.permissions import HUB_RULES
from server.registry import ADMITTED, SiteRow, StudyRow

ROOT_WARN_DAYS, AUTHORITY_WARN_DAYS, SERVER_WARN_DAYS = 365, 180, 30
RENEW_SERVER = "renew the hub's servers: docs/runbook-hub.md, 'Every year'"
RENEW_AUTHORITIES = "renew the authorities: docs/runbook-hub.md, 'Every five years'"
MODULES = ("http_ssl_module", "http_v2_module")


def hub_findings(hub: HubFolder, now: datetime) -> Iterator[Finding]:
    """Check a hub."""
    yield from everywhere()
    yield from _registry(hub)
    for what, number in (
        ("public port", hub.settings.port),
        ("SuperLink's port", hub.settings.superlink_port),
        ("figures' port", hub.settings.metrics_port),
    ):
        yield port(what, number, look_at_port(number), hub.path)
    yield nginx(_build_of_nginx(hub))
    yield machine.socket_path(hub.control_socket)
    top = top_of(hub.path)
    yield keys(entries_of(secrets_of(hub), hub.path, top, HUB_RULES), top)
    yield from _certificates(hub, now)
    yield processes(programs_of(hub.path), alive())


def nginx(built_with: str) -> Finding:
    """Say whether nginx is there, with what the configuration needs.

    Args:
        built_with: What ``nginx -V`` says; empty where there is no nginx.
    """
    if not built_with:
        return broken("nginx", "is not installed", "apt-get install nginx-light")
    missing = [module for module in MODULES if module not in built_with]
    if missing:
        return broken(
            "nginx", f"was built without {', '.join(missing)}", "install your distribution's"
        )
    return fine("nginx", built_with.splitlines()[0].removeprefix("nginx version: "))


def secrets_of(hub: HubFolder) -> list[Path]:
    """Return the files and folders of a hub that hold secrets."""
    files = PkiFiles(hub.pki)
    authorities = [files.key(name) for name in PURPOSES]
    servers = [files.server_key, files.superlink_key]
    roots = [files.root_key.parent, files.root_key]
    shared = [hub.path / "secrets", hub.executor_secret, hub.path / "secrets" / "audit.key"]
    return [hub.pki, *roots, *authorities, *servers, *shared]


def _registry(hub: HubFolder) -> Iterator[Finding]:
    try:
        sites = hub.registry.rows(SiteRow, state=ADMITTED)
        sizes = [study.round_bytes for study in hub.registry.rows(StudyRow)]
    except FedsegError as error:
        yield broken("register", str(error), "run the doctor as root, or restore a backup")
        return
    own = installed("fedseg") or "not installed"
    yield versions.fedseg(own, {site.name: site.version for site in sites if site.seen})
    offsets = {s.name: -s.clock_offset for s in sites if s.seen}
    if offsets:
        worst = max(offsets, key=lambda name: abs(offsets[name]))
        yield machine.clock(offsets[worst], worst)
    else:
        yield fine("clock", "not compared: no site has reported yet")
    yield machine.disk(disk_of(hub.path), max(sizes, default=0))


def _build_of_nginx(hub: HubFolder) -> str:
    try:
        program = command(hub.nginx)[0]
    except FedsegError:
        return ""
    done = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
    return done.stderr


def _certificates(hub: HubFolder, now: datetime) -> Iterator[Finding]:
    try:
        authorities = Authorities.open(hub.pki)
        files = authorities.files
        root = read_certificate(files.root)
        yield certificates.lifetime(
            "root", root, now, warn_days=ROOT_WARN_DAYS, do="make a new federation in time"
        )
        for name in PURPOSES:
            issuer = read_certificate(files.certificate(name))
            yield certificates.chain(f"authority {name}", [issuer], root)
            yield certificates.lifetime(
                f"authority {name}", issuer, now, warn_days=AUTHORITY_WARN_DAYS,
                do=RENEW_AUTHORITIES,
            )  # fmt: skip
        for name, path in (("hub", files.hub_chain), ("SuperLink", files.superlink_chain)):
            held = x509.load_pem_x509_certificates(read_file(path))
            yield certificates.chain(f"certificate of the {name}", held, root)
            yield certificates.lifetime(
                f"certificate of the {name}", held[0], now, warn_days=SERVER_WARN_DAYS,
                do=RENEW_SERVER,
            )  # fmt: skip
            if name == "hub":
                yield certificates.names(held[0], hub.settings.host)
        yield certificates.revocation_list(authorities.crl_expires(), now)
        yield certificates.root_key(is_here=files.root_key.exists())
    except (FedsegError, ValueError) as error:
        yield broken("certificates", str(error), "run the doctor as root, or restore a backup")
    except PermissionError as error:
        yield odd("certificates", f"{error.filename}: not for this user", "run it as root")
