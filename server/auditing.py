"""What of a hub's life is written into its audit log."""

from pathlib import Path

from common.audit import audit_events
from common.events import HUB

EVENTS = frozenset(
    {
        "hub_made", "site_invited", "join_asked", "join_refused", "site_admitted",
        "certificate_renewed", "site_revoked", "revocation_list_renewed",
        "server_certificate_renewed", "model_scored",
        "study_offered", "study_closed", "decided",
        "run_queued", "run_wanted", "run_submitted", "run_state", "run_goes_on",
        "site_enrolled", "site_refused", "round_started", "round_retried", "round_closed",
        "update_accepted", "late_update_accepted", "update_refused", "answered",
        "answer_refused", "best_chosen", "run_finished", "fetched", "exported",
        "accounting_wrong", "update_flagged", "update_damaged", "journal_damaged",
        "foreign_node_key", "second_machine",
    }
)  # fmt: skip
LOG = "hub.jsonl"


def audit_file(hub: Path) -> Path:
    """Return a hub's audit log."""
    return hub / "audit" / LOG


def audit(hub: Path) -> None:
    """Write this process's events of the hub into its audit log from now on.

    Raises:
        AuditError: If the log was changed.
        RunError: If it cannot be written.
    """
    audit_events(HUB, audit_file(hub), EVENTS)
