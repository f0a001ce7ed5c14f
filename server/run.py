"""A run's ``run.json``: what was decided before the first round, and with what."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import InputError, RunError
from common.files import write_json
from common.study.load import parse_study
from common.study.study import Study, study_hash
from common.study.typed import as_typed


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Contents of ``run.json``.

    Attributes:
        run: Identifier of the run.
        study: The study, defaults written out.
        hash: SHA-256 of its canonical JSON.
        created: Time, ISO 8601, UTC.
        versions: Of fedseg and the libraries that made the initial weights.
        sites: Profiles of a simulation, as given; empty elsewhere.
    """

    run: str
    study: dict[str, Any]
    hash: str
    created: str
    versions: dict[str, str]
    sites: dict[str, str] = field(default_factory=dict)

    @property
    def typed_study(self) -> Study:
        """The study as types."""
        return parse_study(json.dumps(self.study), "run.json: study")


def write_run(folder: Path, info: RunInfo) -> None:
    """Write ``run.json``, whole or not at all."""
    write_json(folder / "run.json", asdict(info))


def read_run(folder: Path) -> RunInfo:
    """Read ``run.json``.

    Raises:
        InputError: If the folder is no run.
        RunError: If the file was changed: its study no longer has its hash.
    """
    path = folder / "run.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: is not a run; it has no readable run.json") from error
    try:
        info, problems = as_typed(RunInfo, json.loads(text))
    except ValueError as error:
        raise RunError(f"{path}: is not valid JSON: {error}") from error
    if info is None:
        raise RunError(f"{path}: {problems[0][1]}")
    if study_hash(info.typed_study) != info.hash:
        raise RunError(f"{path}: the study was changed after the run began; start a new run")
    return info
