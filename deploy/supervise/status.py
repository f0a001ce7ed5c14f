"""How the programs under a supervisor are, as it wrote it down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_programs(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the programs of a hub or a site by name; none where no supervisor has run.

    Args:
        folder: Of the hub or the site.
    """
    try:
        told = json.loads((folder / "run" / "status.json").read_text(encoding="utf-8"))
        programs: Mapping[str, Mapping[str, Any]] = told["programs"]
    except (OSError, ValueError, KeyError):
        return {}
    return programs
