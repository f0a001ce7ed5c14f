"""Facts that hub and site gather in the same way."""

import os
import resource
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from deploy.doctor import machine, versions
from deploy.doctor.finding import Finding
from deploy.doctor.machine import Disk
from deploy.doctor.proxies import proxy_variables


def installed(name: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def everywhere() -> Iterator[Finding]:
    """Check what does not depend on a folder."""
    yield versions.python((sys.version_info.major, sys.version_info.minor))
    yield versions.flower(installed("flwr"))
    yield machine.open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield proxy_variables(os.environ)


def disk_of(folder: Path) -> Disk:
    """Look at the disk below a folder."""
    found = os.statvfs(folder)
    read_only = bool(found.f_flag & os.ST_RDONLY)
    return Disk(
        free_bytes=found.f_bavail * found.f_frsize,
        writable=not read_only and os.access(folder, os.W_OK),
    )


def graphics_cards() -> tuple[str, ...] | None:
    """Return the names of the cards that torch sees; None where it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library of the driver's is missing
        return None
    if not torch.cuda.is_available():
        return ()
    return tuple(
        torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
    )
