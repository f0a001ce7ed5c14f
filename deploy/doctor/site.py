"""The checks of a site."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from client.data.description import read_description
from client.profile import Profile, load_profile
from common.errors import FedsegError
from deploy.doctor import certificates, machine, versions
from deploy.doctor.facts import disk_of, everywhere, graphics_cards, installed
from deploy.doctor.finding import Finding, broken, fine
from deploy.doctor.ports import look_at_port, port
from deploy.doctor.processes import alive, processes, programs_of
from deploy.doctor.reach import admission, ask_hub, way_to_hub
from deploy.doctor.secrecy import entries_of, keys, top_of
from deploy.provision.certificates import common_name
from deploy.provision.private_files import read_file
from deploy.provision.site_keys import SiteKeys
from deploy.supervise.offers import Offers
from deploy.supervise.permissions import SITE_RULES
from deploy.supervise.site_folder import SiteFolder

WARN_DAYS = 20  # of 90; the agent renews with 30 left
RENEW = "is the agent running? It renews the certificate; see fedseg site status"


def site_findings(site: SiteFolder, now: datetime) -> Iterator[Finding]:
    """Check a site."""
    yield from everywhere()
    yield versions.fedseg(installed("fedseg") or "not installed", {})
    yield machine.disk(disk_of(site.path), _round_bytes(site))
    for what, number in (
        ("Flower's port", site.settings.runtime_port),
        ("figures' port", site.settings.metrics_port),
    ):
        yield port(what, number, look_at_port(number), site.path)
    yield machine.socket_path(site.worker_socket)
    top, folder = top_of(site.path), site.path / "keys"
    yield keys(entries_of(secrets_of(folder), site.path, top, SITE_RULES), top)
    yield from _certificate(SiteKeys(folder), site, now)
    way = way_to_hub(site.settings.address, site.settings.fingerprint)
    yield way
    answer = ask_hub(site) if way.state == "ok" else None
    if answer is not None:
        yield admission(answer)
    yield machine.clock(answer.offset_s if answer else None, "the hub")
    yield from _profile(site.profile)
    yield processes(programs_of(site.path), alive())


def secrets_of(folder: Path) -> list[Path]:
    """Return the files and folders of a site that hold keys."""
    held = SiteKeys(folder)
    return [folder, held.tls_key, held.next_tls_key, held.node_key, held.audit_key]


def datasets(profile: Profile, may_read: dict[str, bool]) -> Finding:
    """Say whether the profile's datasets are there and readable.

    Args:
        profile: The site's.
        may_read: By folder, whether this user can list it and read its description.
    """
    missing = [entry.folder for entry in profile.datasets if not may_read[entry.folder]]
    if missing:
        return broken(
            "datasets",
            f"{', '.join(missing)}: not there, or not readable for this user",
            "mount it, or give the worker's user the right to read it",
        )
    return fine("datasets", f"{len(profile.datasets)} readable")


def _round_bytes(site: SiteFolder) -> int:
    try:
        return max(
            (offer.round_bytes for offer in Offers(site.path / "offers").all()), default=0
        )
    except (FedsegError, OSError):
        return 0


def _certificate(held: SiteKeys, site: SiteFolder, now: datetime) -> Iterator[Finding]:
    what = "certificate"
    try:
        chain = x509.load_pem_x509_certificates(read_file(held.certificate))
        root = x509.load_pem_x509_certificate(read_file(held.root))
    except (FedsegError, ValueError) as error:
        yield broken(what, str(error), "restore the folder keys from its backup, or join again")
        return
    if root.fingerprint(hashes.SHA256()).hex() != site.settings.fingerprint:
        yield broken(what, "keys/root.crt is another hub's", "restore the folder keys")
    yield certificates.chain(what, chain, root)
    yield certificates.lifetime(what, chain[0], now, warn_days=WARN_DAYS, do=RENEW)
    if common_name(chain[0]) != site.settings.site:
        yield broken(
            what, f"is for {common_name(chain[0])}, not {site.settings.site}", "restore keys"
        )


def _profile(path: Path) -> Iterator[Finding]:
    try:
        profile = load_profile(path)
    except FedsegError as error:
        first = str(error).splitlines()[0]
        yield broken("profile", first, "mend the profile, README.md describes it")
        yield machine.graphics(graphics_cards(), "auto")
        return
    yield fine("profile", f"{path}: site {profile.name}, {len(profile.datasets)} datasets")
    may_read = {entry.folder: _is_readable(Path(entry.folder)) for entry in profile.datasets}
    yield datasets(profile, may_read)
    yield machine.graphics(graphics_cards(), profile.device)


def _is_readable(folder: Path) -> bool:
    try:
        read_description(folder)
    except (FedsegError, OSError):
        return False
    return os.access(folder, os.R_OK | os.X_OK)
