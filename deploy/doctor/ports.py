"""TCP ports of this machine: who listens on them."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.finding import Finding, broken, fine, odd

LISTENING = "0A"
LOCAL_COLUMN, STATE_COLUMN, INODE_COLUMN = 1, 3, 9
PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class PortUse:
    """Who has a port.

    Attributes:
        taken: Whether somebody listens on it.
        holders: Command lines of those who do, as far as this user may see them.
        may_open: Whether this user may open it.
    """

    taken: bool
    holders: tuple[str, ...] = ()
    may_open: bool = True


def port(what: str, number: int, found: PortUse, folder: Path) -> Finding:
    """Say whether a port is free or held by this hub itself.

    Args:
        what: The port's name.
        number: Of it.
        found: Who has it.
        folder: The hub's; its processes name it in their command lines.
    """
    name = f"{what} {number}"
    if not found.taken:
        if found.may_open:
            return fine(name, "free")
        return odd(
            name,
            "free, but this user may not open it",
            "start the hub as root or by its units, or choose a port from 1024 on",
        )
    if any(str(folder) in holder for holder in found.holders):
        return fine(name, "this hub listens on it")
    if not found.holders:
        return odd(name, "in use; this user cannot see by whom", "run the doctor as root")
    return broken(
        name, f"taken by {found.holders[0][:80]!r}", "stop that, or make the hub with another"
    )


def look_at_port(number: int) -> PortUse:
    """Find out who has a port."""
    inodes = set(_listening(number))
    if inodes:
        return PortUse(taken=True, holders=tuple(_holders(inodes)))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", number))
        except PermissionError:
            return PortUse(taken=False, may_open=False)
        except OSError:
            return PortUse(taken=True)
    return PortUse(taken=False)


def _listening(number: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            local = int(columns[LOCAL_COLUMN].rpartition(":")[2], 16)
            if local == number and columns[STATE_COLUMN] == LISTENING:
                yield columns[INODE_COLUMN]


def _holders(inodes: set[str]) -> Iterator[str]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in sorted(PROC.glob("[0-9]*")):
        try:
            held = set(_links(process / "fd"))
            line = (process / "cmdline").read_bytes()
        except OSError:  # ended, or another user's
            continue
        if held & wanted:
            yield line.replace(b"\0", b" ").decode(errors="replace").strip()


def _links(folder: Path) -> Iterator[str]:
    for link in folder.iterdir():
        with suppress(OSError):  # closed since
            yield str(link.readlink())
