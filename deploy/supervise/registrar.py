"""``python -m deploy.supervise.registrar HUB``: does what the coordinator wants, by itself.

It alone opens the authorities' keys. It gives admitted sites their certificates and renews
them, cuts revoked sites off, keeps the revocation list fresh and the proxy's logs short, tells
whose node key was refused, and starts and stops runs.

Sites and runs are looked after side by side: Flower's commands for a run take seconds, and a
site that is revoked must not be let in for so long.
"""

import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import final

from common.audit import AuditLog, signing_key
from common.errors import FedsegError
from common.events import HUB, JsonLines, emit
from deploy.provision.authority import Authorities
from deploy.provision.nginx import ACCESS_LOG, LOGS, reload, rotate_logs, write_bindings
from deploy.provision.public_keys import node_header_of
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.refusals import Refusals
from deploy.supervise.runs import RunDesk
from server.auditing import audit, audit_file
from server.registry import ADMITTED, REVOKED, REVOKING, WANTED, RunRow, SiteRow

LOOK_SECONDS = 0.25
LIST_DAYS_LEFT = 10
DAY_SECONDS = 86_400.0
SERVER_DAYS_LEFT = 60


@final
class Registrar:
    """One hub's.

    Args:
        hub: The hub's folder.
        clock: The time, UTC.
    """

    def __init__(
        self, hub: HubFolder, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._hub, self._clock = hub, clock
        self._registry, self._flower = hub.registry, hub.flower
        self._authorities = Authorities.open(hub.pki)

    def look(self) -> None:
        """Do what is to be done now."""
        for site in self._registry.rows(SiteRow, state=REVOKING):
            self._revoke(site)
        for site in self._registry.rows(SiteRow, state=WANTED):
            self._admit(site)
        for site in self._registry.rows(SiteRow, state=ADMITTED):
            if site.renewal_pem:
                self._renew(site)
        self.keep_list()
        self.keep_certificate()

    def keep_list(self) -> None:
        """Renew the revocation list long before it ends: an old one shuts every site out."""
        left = self._authorities.crl_expires() - self._clock()
        if left < timedelta(days=LIST_DAYS_LEFT):
            self._authorities.write_crl(self._clock())
            reload(self._hub.nginx)
            emit(HUB, "revocation_list_renewed")

    def keep_certificate(self) -> None:
        """Renew the hub's own certificates; the SuperLink reads its when it next starts."""
        left = self._authorities.server_expires() - self._clock()
        if left < timedelta(days=SERVER_DAYS_LEFT):
            self._authorities.renew_server(self._clock())
            reload(self._hub.nginx)
            emit(HUB, "server_certificate_renewed")

    def keep_logs(self) -> None:
        """Put the proxy's logs aside when they have grown large."""
        rotate_logs(self._hub.nginx)

    def _admit(self, site: SiteRow) -> None:
        """Give a site its node, its binding and, last of all, its certificate."""
        if not site.node_id:  # noted at once: Flower registers a key only once
            node = self._register(site)
            self._registry.change(SiteRow, {"name": site.name}, node_id=node)
        self._bind(site)
        issued = self._authorities.issue_site(
            site.request_pem, site.name, days=self._hub.settings.certificate_days,
            now=self._clock(),
        )  # fmt: skip
        self._registry.change(
            SiteRow, {"name": site.name, "state": WANTED}, state=ADMITTED,
            serial=issued.serial, certificate_pem=issued.pem,
            certificate_ends=issued.not_after.timestamp(),
        )  # fmt: skip
        emit(HUB, "site_admitted", site=site.name, serial=issued.serial)

    def _register(self, site: SiteRow) -> str:
        with tempfile.TemporaryDirectory() as held:
            key = Path(held) / "node.pub"
            key.write_text(site.node_key, encoding="ascii")
            return self._flower.register(key, site.name)

    def _renew(self, site: SiteRow) -> None:
        issued = self._authorities.issue_site(
            site.renewal_pem, site.name, days=self._hub.settings.certificate_days,
            now=self._clock(),
        )  # fmt: skip
        self._registry.change(
            SiteRow, {"name": site.name, "renewal_pem": site.renewal_pem},
            request_pem=site.renewal_pem, renewal_pem="", certificate_pem=issued.pem,
            serial=f"{issued.serial} {site.serial}",
            certificate_ends=issued.not_after.timestamp(),
        )  # fmt: skip
        emit(HUB, "certificate_renewed", site=site.name, serial=issued.serial)

    def _revoke(self, site: SiteRow) -> None:
        """Cut a site off: list, proxy, then Flower; who waits for it goes on at once."""
        for serial in site.serial.split():
            self._authorities.revoke(serial, self._clock())
        self._authorities.write_crl(self._clock())
        self._bind()
        if site.node_id:
            try:
                self._flower.unregister(site.node_id)
            except FedsegError as error:  # it may be gone already
                emit(HUB, "unregister_failed", site=site.name, reason=str(error))
        self._registry.change(SiteRow, {"name": site.name}, state=REVOKED, node_id="")
        emit(HUB, "site_revoked", site=site.name)

    def _bind(self, *more: SiteRow) -> None:
        """Let node keys of admitted sites, and of these, through with their certificates."""
        admitted = [*self._registry.rows(SiteRow, state=ADMITTED), *more]
        pairs = [(site.name, node_header_of(site.node_key)) for site in admitted]
        write_bindings(self._hub.nginx, pairs)
        reload(self._hub.nginx)


@final
class Signer:
    """Signs the head of the hub's audit log daily and when a round or a run ended.

    Args:
        hub: The hub's folder.
    """

    def __init__(self, hub: HubFolder) -> None:
        self._log = AuditLog(audit_file(hub.path), key=signing_key(hub.audit_key))
        self._registry = hub.registry
        self._signed: tuple[object, ...] = ()
        self._moment = 0.0

    def look(self) -> None:
        """Sign if something ended, or a day has passed."""
        stands = tuple((row.run, row.round, row.state) for row in self._registry.rows(RunRow))
        if stands != self._signed or time.monotonic() - self._moment > DAY_SECONDS:
            self._log.sign_head()
            self._signed, self._moment = stands, time.monotonic()


def run_forever(duties: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Do all duties again and again; what fails is logged once and tried again."""
    failed: dict[str, str] = {}
    while not stop.wait(LOOK_SECONDS):
        for duty in duties:
            name = duty.__qualname__
            try:
                duty()
                failed.pop(name, None)
            except FedsegError as error:
                if failed.get(name) != str(error):
                    failed[name] = str(error)
                    emit(HUB, "registrar_failed", duty=name, reason=str(error))


def side_by_side(
    first: Sequence[Callable[[], None]],
    second: Sequence[Callable[[], None]],
    stop: threading.Event,
) -> None:
    """Do two sets of duties in a thread each; where one of the two breaks, both end."""
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run_forever, second, stop)
        other.add_done_callback(lambda _: stop.set())
        try:
            run_forever(first, stop)
        finally:
            stop.set()
    other.result()


def main() -> None:
    """Work until told to end."""
    try:
        hub = HubFolder.open(Path(sys.argv[1]))
        HUB.setLevel(logging.INFO)
        HUB.addHandler(JsonLines(hub.path / "log" / "registrar.jsonl"))
        audit(hub.path)
        registrar = Registrar(hub)
    except FedsegError as error:
        sys.exit(f"registrar: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with closing(Refusals(hub.nginx / LOGS / ACCESS_LOG, hub.registry)) as refusals:
        side_by_side(
            [registrar.look, registrar.keep_logs, refusals.look],
            [RunDesk(hub).look, Signer(hub).look],
            stop,
        )


if __name__ == "__main__":
    main()
