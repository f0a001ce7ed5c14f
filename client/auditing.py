"""What of a site's life is written into its audit log, beside the ledger of decisions."""

import time
from pathlib import Path
from typing import final

from client.consent import LEDGER
from common.audit import AuditLog, audit_events, signing_key
from common.events import SITE

EVENTS = frozenset(
    {
        "worker_started", "worker_ended", "round_trained", "study_offered", "offer_refused",
        "offer_unreadable", "decision_told", "certificate_renewed", "hub_trouble",
        "hub_reached", "job_refused", "exported",
    }
)  # fmt: skip
LOG = "site.jsonl"


def audit_files(site: Path) -> tuple[Path, Path]:
    """Return a site's audit log and its ledger of decisions."""
    return site / "audit" / LOG, site / "consent" / LEDGER


def audit(site: Path) -> None:
    """Write this process's events of the site into its audit log from now on.

    Raises:
        AuditError: If the log was changed.
        RunError: If it cannot be written.
    """
    path = audit_files(site)[0]
    path.parent.mkdir(mode=0o770, exist_ok=True)
    audit_events(SITE, path, EVENTS)


@final
class SiteSigner:
    """Signs the heads of a site's two logs a minute after they grew at the latest.

    Args:
        site: The site's folder.
        key: File of the key that signs; PEM, Ed25519.

    Raises:
        InputError: If the file holds no such key.
    """

    def __init__(self, site: Path, key: Path, every_seconds: float = 60.0) -> None:
        self._key, self._files = signing_key(key), audit_files(site)
        self._every = every_seconds
        self._sizes: dict[Path, int] = {}
        self._moment = 0.0

    def look(self) -> None:
        """Sign what has grown since it was signed.

        Raises:
            AuditError: If a log was changed by other hands: it is not signed.
        """
        if time.monotonic() - self._moment < self._every:
            return
        self._moment = time.monotonic()
        for path in self._files:
            if path.exists() and path.stat().st_size != self._sizes.get(path):
                AuditLog(path, key=self._key).sign_head()
                self._sizes[path] = path.stat().st_size
