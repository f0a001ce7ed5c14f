"""The audit logs of a hub or a site, looked at by whoever has the folder."""

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.auditing import audit_files
from common.audit import Finding, signing_key
from common.audit import verify as verify_log
from common.errors import InputError
from server.auditing import audit_file


def verify_folder(
    folder: Path, key: Ed25519PublicKey | None = None
) -> Iterator[tuple[Path, int, list[Finding]]]:
    """Yield each audit log with its number of records and what is wrong with it.

    Args:
        folder: Of a hub or a site.
        key: Public key; by default that of the folder's own.

    Raises:
        InputError: If the folder is neither.
    """
    if (folder / "hub.json").exists():
        logs, own = [audit_file(folder)], folder / "secrets" / "audit.key"
    elif (folder / "site.json").exists():
        logs = [path for path in audit_files(folder) if path.exists()]
        own = folder / "keys" / "audit.key"
    else:
        raise InputError(f"{folder}: is neither a hub's nor a site's folder")
    public = key or signing_key(own).public_key()
    for path in logs:
        records = len(path.read_bytes().splitlines())
        yield path, records, verify_log(path, public)
