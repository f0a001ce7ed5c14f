"""Who may read keys: modes and owners of files and folders."""

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.finding import Finding, broken, fine
from deploy.supervise.permissions import Rule, mode_for

OPEN_TO_GROUP = 0o070


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or folder that holds a secret.

    Attributes:
        path: Where it is.
        mode: Permission bits and kind.
        uid: Its owner.
        gid: Its group.
        allowed: The most that its mode may be.
    """

    path: Path
    mode: int
    uid: int
    gid: int
    allowed: int


@dataclass(frozen=True, kw_only=True)
class Top:
    """The hub's or the site's folder.

    Attributes:
        uid: Its owner.
        gid: Its group.
        apart: Whether ``fedseg hub permissions`` gave each process a user of its own.
    """

    uid: int
    gid: int
    apart: bool


def top_of(folder: Path) -> Top:
    """Look at a hub's or site's folder; apart: it is root's, and something in it is not."""
    found = folder.stat()
    owners = {path.lstat().st_uid for path in folder.iterdir()}
    return Top(
        uid=found.st_uid, gid=found.st_gid, apart=found.st_uid == 0 and owners - {0} != set()
    )


def entries_of(
    paths: Iterable[Path], folder: Path, top: Top, rules: Sequence[Rule]
) -> list[Entry]:
    """Look at files and folders that hold secrets; what is not there is left out."""
    found = []
    for path in paths:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        allowed = 0o700 if is_folder else 0o600
        if top.apart:
            allowed = mode_for(str(path.relative_to(folder)), rules, is_folder=is_folder)
        found.append(
            Entry(
                path=path, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid,
                allowed=allowed,
            )
        )  # fmt: skip
    return found


def keys(entries: Sequence[Entry], top: Top) -> Finding:
    """Say whether nobody can read keys who must not.

    Args:
        entries: Files and folders that hold keys.
        top: The folder that they are in; everybody of the hub or site is in its group.
    """
    for entry in entries:
        mode = stat.S_IMODE(entry.mode)
        if stat.S_ISLNK(entry.mode):
            return broken("keys", f"{entry.path}: is a link", "put the file itself there")
        is_shared = (
            not stat.S_ISDIR(entry.mode) and entry.gid == top.gid and mode & OPEN_TO_GROUP
        )
        if mode & ~entry.allowed or (top.apart and is_shared):
            do = f"chmod {entry.allowed:04o} {entry.path}"
            return broken(
                "keys",
                f"{entry.path}: mode {mode:04o}; others than its owner get at it",
                "fedseg hub permissions, or site permissions, as root" if top.apart else do,
            )
        if not top.apart and entry.uid != top.uid:
            return broken(
                "keys",
                f"{entry.path}: belongs to user {entry.uid}, the folder to user {top.uid}",
                f"chown {top.uid} {entry.path}",
            )
    words = "the process that needs them" if top.apart else "their owner"
    return fine("keys", f"{len(entries)} files and folders, readable for {words} alone")
