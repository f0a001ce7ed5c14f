"""A run's ``run.json``: what was decided before the first round, and with what."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import DamagedError, InputError, RunError
from common.sealed import MISSING, read_sealed, write_sealed
from common.study.load import parse_study
from common.study.study import Study, study_hash
from common.study.typed import as_typed

RUN = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Contents of ``run.json``.

    Attributes:
        run: Identifier of the run.
        study: The study, defaults written out.
        hash: SHA-256 of its canonical JSON.
        created: Time, ISO 8601, UTC.
        versions: Of fedseg and the libraries that made the initial weights.
        initial: SHA-256 of the file of the initial weights.
        sites: Profiles of a simulation, as given; empty elsewhere.
    """

    run: str
    study: dict[str, Any]
    hash: str
    created: str
    versions: dict[str, str]
    initial: str
    sites: dict[str, str] = field(default_factory=dict)

    @property
    def typed_study(self) -> Study:
        """The study as types."""
        return parse_study(json.dumps(self.study), "run.json: study")


def write_run(folder: Path, info: RunInfo) -> None:
    """Write ``run.json``, whole or not at all."""
    write_sealed(folder / RUN, asdict(info), file=RUN, run=info.run)


def read_run(folder: Path) -> RunInfo:
    """Read ``run.json``.

    Raises:
        InputError: If the folder is no run.
        DamagedError: If the file is not what was written when the run was made.
        RunError: If it cannot be used: another release wrote it, or its study no longer has
            its hash.
    """
    path = folder / RUN
    try:
        plain = read_sealed(path, file=RUN, run=None)
    except DamagedError as error:
        if error.what != MISSING:
            raise
        what = "is not a run; it has no readable run.json"
        raise InputError(f"{folder}: {what}") from error
    info, problems = as_typed(RunInfo, plain)
    if info is None:
        raise RunError(f"{path}: {problems[0][1]}; go on with the release that wrote it")
    if study_hash(info.typed_study) != info.hash:
        raise RunError(f"{path}: the study was changed after the run began; start a new run")
    return info


def run_of(folder: Path) -> str:
    """Return the identifier of the run whose folder this is; empty if it is none.

    Raises:
        DamagedError: If its ``run.json`` is not what was written when the run was made.
    """
    try:
        return str(read_sealed(folder / RUN, file=RUN, run=None)["run"])
    except DamagedError as error:
        if error.what != MISSING:
            raise
        return ""
