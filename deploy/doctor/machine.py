"""The machine: its clock, disk, limits, graphics card and the length of socket paths."""

from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.finding import Finding, broken, fine, odd

CLOCK_WARN_S, CLOCK_FAIL_S = 120.0, 300.0
ROUNDS_KEPT = 20
SMALLEST_FREE_BYTES = 2**30
LONGEST_SOCKET_BYTES = 107
FEW_FILES, TOO_FEW_FILES = 1024, 256
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Where a folder is kept: bytes that its user may still write, and whether they may."""

    free_bytes: int
    writable: bool


def clock(offset_s: float | None, other: str) -> Finding:
    """Say whether this clock agrees with the other side's.

    Args:
        offset_s: This clock minus the other, seconds; None where the other was not reached.
        other: Whose clock it was compared with.
    """
    if offset_s is None:
        return fine("clock", f"not compared: {other} was not reached")
    words = f"{abs(offset_s):.0f} s {'ahead of' if offset_s > 0 else 'behind'} {other}"
    if abs(offset_s) <= CLOCK_WARN_S:
        return fine("clock", words)
    do = "set this machine's clock, best with a time service (chrony, systemd-timesyncd)"
    if abs(offset_s) <= CLOCK_FAIL_S:
        return odd("clock", words, do)
    return broken("clock", f"{words}; Flower refuses more than {CLOCK_FAIL_S:.0f} s", do)


def disk(found: Disk, round_bytes: int) -> Finding:
    """Say whether a folder has room for the runs to come.

    Args:
        found: Of the folder.
        round_bytes: Of the largest study's weights, one way; 0 where there is no study.
    """
    free = f"{found.free_bytes / GIB:.1f} GiB free"
    if not found.writable:
        return broken(
            "disk", f"{free}, but the folder cannot be written", "mount it for writing"
        )
    needed = max(ROUNDS_KEPT * round_bytes, SMALLEST_FREE_BYTES)
    if found.free_bytes >= needed:
        return fine("disk", free)
    words = f"{free}; {ROUNDS_KEPT} rounds of the largest study take {needed / GIB:.1f} GiB"
    if found.free_bytes < round_bytes:
        return broken("disk", words, "free some space: not even one round fits")
    return odd("disk", words, "free some space; a run pauses when the disk is full")


def open_files(limit: int) -> Finding:
    """Say whether a process may open enough files."""
    words = f"{limit} at once"
    if limit >= FEW_FILES:
        return fine("open files", words)
    do = f"raise the limit to {FEW_FILES} (ulimit -n; LimitNOFILE= in a unit)"
    return (broken if limit < TOO_FEW_FILES else odd)("open files", words, do)


def socket_path(path: Path) -> Finding:
    """Say whether a unix socket's path is short enough for Linux."""
    length = len(str(path).encode())
    if length <= LONGEST_SOCKET_BYTES:
        return fine("socket", f"{path.name}: a path of {length} bytes")
    return broken(
        "socket",
        f"{path}: {length} bytes, Linux takes {LONGEST_SOCKET_BYTES}",
        "move the folder to a shorter path",
    )


def graphics(names: tuple[str, ...] | None, wanted: str) -> Finding:
    """Say whether the device that the profile wants is there.

    Args:
        names: Of the cards that torch sees; None where torch cannot be imported.
        wanted: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if names is None:
        return broken("GPU", "torch cannot be imported; a site trains with it", "install torch")
    there = ", ".join(names) or "none seen by torch"
    if wanted == "cpu" or names:
        number = int(wanted.partition(":")[2] or 0)
        if number < max(len(names), 1):
            return fine("GPU", there)
        return broken("GPU", f"{there}; the profile wants {wanted}", "change the profile")
    if wanted == "auto":
        return odd("GPU", f"{there}; training runs on the processor", "a slow site delays all")
    return broken(
        "GPU", f"{there}; the profile wants {wanted}", "install the driver, or a torch for it"
    )
