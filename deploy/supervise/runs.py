"""The hub's runs: queued, started, watched, started again, paused and stopped."""

import fcntl
import json
import time
from pathlib import Path
from typing import final

from common.errors import RunError
from common.events import HUB, emit
from deploy.supervise.bundle import write_app
from deploy.supervise.flower import FlowerRun
from deploy.supervise.hub_folder import HubFolder
from server.matrix import MATRIX
from server.registry import (
    FAILED,
    FINISHED,
    MATRIX_SUFFIX,
    PAUSED,
    QUEUED,
    RUNNING,
    STOPPED,
    RunRow,
)
from server.run import read_run

ASK_FLOWER_SECONDS = 3.0
MOST_FAILURES = 5
PAUSES_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)  # between attempts that closed no round


@final
class RunDesk:
    """Keeps each run where the coordinator wants it.

    Args:
        hub: The hub's folder.
    """

    def __init__(self, hub: HubFolder) -> None:
        self._hub, self._registry = hub, hub.registry
        self._asked = 0.0
        self._flower_runs: dict[str, FlowerRun] = {}
        self._not_before: dict[str, float] = {}
        self._in_vain: dict[str, tuple[int, int]] = {}
        write_app(hub.app)

    def look(self) -> None:
        """Do what is to be done now."""
        rows = self._registry.rows(RunRow)
        for row in rows:
            if row.state == RUNNING:
                self._watch(row)
        busy = sum(row.state == RUNNING for row in self._registry.rows(RunRow))
        for row in rows:
            if row.wanted in (PAUSED, STOPPED) and row.state in (QUEUED, PAUSED):
                self._set(row, row.wanted, "by the coordinator")
            elif (
                row.wanted == RUNNING
                and row.state in (QUEUED, PAUSED)
                and busy < self._hub.settings.runs_at_once
                and self._may_start(row)
            ):
                self._start(row)
                busy += 1

    # --- starting ----------------------------------------------------------------------------

    def _may_start(self, row: RunRow) -> bool:
        """Whether enough sites that approved are there; say what is missing where not."""
        if time.monotonic() < self._not_before.get(row.run, 0.0):
            return False
        study = read_run(Path(row.folder)).typed_study
        approved = self._registry.approved(row.hash)
        there = self._registry.there(row.hash)
        needed = study.federation.minimum_sites
        if len(there) >= needed:
            return True
        away = [s.name for s in approved if s not in there]
        sentence = (
            f"waits for {needed - len(there)} more of {needed} sites to approve and be ready"
        )
        if away:
            sentence += f"; approved but not there: {', '.join(away)}"
        if sentence != row.sentence:
            self._set(row, row.state, sentence)
        return False

    def _start(self, row: RunRow) -> None:
        action = MATRIX if row.run.endswith(MATRIX_SUFFIX) else ""
        settings = {"run": row.folder, "registry": str(self._registry.path), "action": action}
        flower_run = self._hub.flower.start(self._hub.app, settings)
        _outcome_file(row).unlink(missing_ok=True)
        self._registry.change(
            RunRow, {"run": row.run}, state=RUNNING, flower_run=flower_run, sentence="",
            attempts=row.attempts + 1,
        )  # fmt: skip
        self._asked = 0.0
        emit(HUB, "run_submitted", run=row.run, flower_run=flower_run, attempt=row.attempts + 1)

    # --- watching ----------------------------------------------------------------------------

    def _watch(self, row: RunRow) -> None:
        closed = len(list((Path(row.folder) / "journal").glob("round-[0-9]*.json")))
        if closed != row.round:
            self._registry.change(RunRow, {"run": row.run}, round=closed)
        if row.wanted in (PAUSED, STOPPED):
            self._stop(row)
            return
        if _is_held(Path(row.folder)):
            return
        state = self._flower_state(row)
        if state.startswith("finished") or not state:
            self._ended(row, state)

    def _stop(self, row: RunRow) -> None:
        try:
            self._hub.flower.stop(row.flower_run)
        except RunError as error:
            emit(HUB, "stop_failed", run=row.run, reason=str(error))
        until = time.monotonic() + 20
        while _is_held(Path(row.folder)) and time.monotonic() < until:
            time.sleep(0.2)
        self._set(row, row.wanted, "by the coordinator")

    def _flower_state(self, row: RunRow) -> str:
        if time.monotonic() - self._asked > ASK_FLOWER_SECONDS:
            self._flower_runs = self._hub.flower.runs()
            self._asked = time.monotonic()
        held = self._flower_runs.get(row.flower_run)
        return held.state if held is not None else ""

    def _ended(self, row: RunRow, state: str) -> None:
        """The ServerApp is gone: done, waiting for sites, or to be started again."""
        if _is_done(row):
            self._set(row, FINISHED, "")
            return
        outcome = _outcome(row)
        if outcome.get("state") == PAUSED:
            self._wait_longer(row)
            self._set(row, PAUSED, str(outcome.get("sentence", "")))
            return
        if outcome or row.attempts >= MOST_FAILURES:
            sentence = str(outcome.get("sentence") or f"ended {row.attempts} times ({state})")
            self._set(row, FAILED, sentence)
            return
        emit(HUB, "run_goes_on", run=row.run, after=state or "unknown to Flower")
        self._wait_longer(row)
        self._set(row, QUEUED, "its process ended; goes on at the same round")

    def _wait_longer(self, row: RunRow) -> None:
        """Choose when to try again: later each time that no round was closed in between."""
        round_, times = self._in_vain.get(row.run, (row.round, 0))
        times = times + 1 if round_ == row.round else 1
        self._in_vain[row.run] = (row.round, times)
        pause = PAUSES_SECONDS[min(times, len(PAUSES_SECONDS)) - 1]
        self._not_before[row.run] = time.monotonic() + pause

    def _set(self, row: RunRow, state: str, sentence: str) -> None:
        self._registry.change(RunRow, {"run": row.run}, state=state, sentence=sentence)
        emit(HUB, "run_state", run=row.run, state=state, sentence=sentence)


def _is_done(row: RunRow) -> bool:
    if row.run.endswith(MATRIX_SUFFIX):
        folder = Path(row.folder) / MATRIX
        models = ["global", *(path.stem for path in folder.glob("*.safetensors"))]
        return all((folder / f"{name}.json").exists() for name in models)
    return (Path(row.folder) / "journal" / "final.json").exists()


def _outcome_file(row: RunRow) -> Path:
    return Path(row.folder) / "outcome.json"


def _outcome(row: RunRow) -> dict[str, object]:
    try:
        held: dict[str, object] = json.loads(_outcome_file(row).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held


def _is_held(folder: Path) -> bool:
    """Whether a ServerApp works in a run's folder."""
    try:
        with (folder / ".lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror}") from error
    return False
