"""What runs, as the supervisor wrote it down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.doctor.finding import Finding, broken, fine, odd

Programs = Mapping[str, Mapping[str, Any]]


def processes(programs: Programs | None, alive: frozenset[int]) -> Finding:
    """Say what of a hub or site does not run as it should.

    Args:
        programs: From the supervisor's status; None where there is none.
        alive: Processes of this machine.
    """
    what = "processes"
    if programs is None:
        return fine(what, "no supervisor has run here; with units or containers, ask those")
    up = {name: p for name, p in programs.items() if p.get("pid") in alive}
    if not up:
        return odd(what, "none runs", "start it: fedseg hub serve, or fedseg site run")
    lame = {
        name: f"{name} (last code {p.get('exit_code')}, started {p.get('starts')} times)"
        for name, p in programs.items()
        if name not in up or not p.get("ready")
    }
    if lame:
        return broken(
            what,
            f"not ready: {', '.join(lame.values())}",
            "its own words are in the folder log",
        )
    return fine(what, f"{len(up)} run and are ready")


def programs_of(folder: Path) -> Programs | None:
    """Read the supervisor's status below a hub's or site's folder."""
    try:
        text = (folder / "run" / "status.json").read_text(encoding="utf-8")
        programs: Programs = json.loads(text)["programs"]
    except (OSError, ValueError, KeyError):
        return None
    return programs


def alive() -> frozenset[int]:
    """Return the processes of this machine."""
    return frozenset(int(path.name) for path in Path("/proc").glob("[0-9]*"))
