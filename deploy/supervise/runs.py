"""The hub's runs: queued, started, watched, started again, paused and stopped."""

import fcntl
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

from common.errors import RunError, StorageError
from common.events import HUB, emit
from deploy.supervise.bundle import write_app
from deploy.supervise.flower import FlowerRun
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.storage import check_writable, sentence_of
from server.matrix import MATRIX
from server.registry import (
    FAILED,
    FINISHED,
    MATRIX_SUFFIX,
    PAUSED,
    QUEUED,
    RUNNING,
    STOPPED,
    DecisionRow,
    RunRow,
)
from server.run import read_run

ASK_FLOWER_SECONDS = 3.0
MOST_CRASHES = 5
PAUSES_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)  # between attempts that closed no round
DECIDED = {"pause": "paused there", "withdraw": "withdrawn", "deny": "denied"}
DISK_SECONDS = 5.0  # between two looks whether a run's folder can be written again


@dataclass
class _Tried:
    """What was tried for a run since a round of it was last closed.

    Attributes:
        round: Of that.
        attempts: That ended.
        crashes: Those of them that ended without a reason. A run that waited for sites or for
            room on the disk, or that was stopped with its hub, did not crash.
        not_before: Monotonic time of the next attempt.
    """

    round: int
    attempts: int = 0
    crashes: int = 0
    not_before: float = 0.0


@final
class RunDesk:
    """Keeps each run where the coordinator wants it.

    Args:
        hub: The hub's folder.
    """

    def __init__(self, hub: HubFolder) -> None:
        self._hub, self._registry, self._flower = hub, hub.registry, hub.flower
        self._asked = 0.0
        self._flower_runs: dict[str, FlowerRun] = {}
        self._tried: dict[str, _Tried] = {}
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
        if time.monotonic() < self._since_last_round(row).not_before:
            return False
        study = read_run(Path(row.folder)).typed_study
        approved = self._registry.approved(row.hash)
        there = self._registry.there(row.hash)
        needed = study.federation.minimum_sites
        if len(there) >= needed:
            return self._has_room(row)
        away = [s.name for s in approved if s not in there]
        sentence = (
            f"waits for {needed - len(there)} more of {needed} sites to approve and be ready"
        )
        if away:
            sentence += f"; approved but not there: {', '.join(away)}"
        for decision, words in DECIDED.items():
            rows = self._registry.rows(DecisionRow, hash=row.hash, decision=decision)
            if rows:
                sentence += f"; {words}: {', '.join(sorted(d.site for d in rows))}"
        if sentence != row.sentence:
            self._set(row, row.state, sentence)
        return False

    def _has_room(self, row: RunRow) -> bool:
        """Whether the run's folder can be written; where not, say so and look again soon."""
        try:
            check_writable(Path(row.folder))
        except StorageError as error:
            self._wait_for_disk(row, str(error))
            return False
        return True

    def _wait_for_disk(self, row: RunRow, sentence: str) -> None:
        self._since_last_round(row).not_before = time.monotonic() + DISK_SECONDS
        if (row.state, row.sentence) != (PAUSED, sentence):
            self._set(row, PAUSED, sentence)

    def _start(self, row: RunRow) -> None:
        action = MATRIX if row.run.endswith(MATRIX_SUFFIX) else ""
        settings = {"run": row.folder, "registry": str(self._registry.path), "action": action}
        try:
            _outcome_file(row).unlink(missing_ok=True)
        except OSError as error:
            self._wait_for_disk(row, sentence_of(error))
            return
        if not row.attempts:  # a new run, or one that the coordinator resumed
            self._tried.pop(row.run, None)
        flower_run = self._flower.start(self._hub.app, settings)
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
            self._flower.stop(row.flower_run)
        except RunError as error:
            emit(HUB, "stop_failed", run=row.run, reason=str(error))
        until = time.monotonic() + 20
        while _is_held(Path(row.folder)) and time.monotonic() < until:
            time.sleep(0.2)
        self._set(row, row.wanted, "by the coordinator")

    def _flower_state(self, row: RunRow) -> str:
        if time.monotonic() - self._asked > ASK_FLOWER_SECONDS:
            self._flower_runs = self._flower.runs()
            self._asked = time.monotonic()
        held = self._flower_runs.get(row.flower_run)
        return held.state if held is not None else ""

    def _ended(self, row: RunRow, state: str) -> None:
        """The ServerApp is gone: done, waiting for sites, or to be started again."""
        if _is_done(row):
            self._set(row, FINISHED, "")
            return
        outcome = _outcome(row)
        if outcome and outcome.get("state") != PAUSED:
            self._set(row, FAILED, str(outcome.get("sentence", "")))
        elif not self._has_room(row):
            return  # it may not even have been able to say so
        elif outcome:
            self._wait_longer(row)
            self._set(row, PAUSED, str(outcome.get("sentence", "")))
        else:
            self._crashed(row, state)

    def _crashed(self, row: RunRow, state: str) -> None:
        """Try again after a ServerApp that ended and did not say why, but not forever."""
        tried = self._since_last_round(row)
        tried.crashes += 1
        if tried.crashes >= MOST_CRASHES:
            self._set(row, FAILED, f"ended {tried.crashes} times without a reason ({state})")
            return
        emit(HUB, "run_goes_on", run=row.run, after=state or "unknown to Flower")
        self._wait_longer(row)
        self._set(row, QUEUED, "its process ended; goes on at the same round")

    def _since_last_round(self, row: RunRow) -> _Tried:
        tried = self._tried.get(row.run)
        if tried is None or tried.round != row.round:
            tried = self._tried[row.run] = _Tried(row.round)
        return tried

    def _wait_longer(self, row: RunRow) -> None:
        """Choose when to try again: later each time that no round was closed in between."""
        tried = self._since_last_round(row)
        tried.attempts += 1
        pause = PAUSES_SECONDS[min(tried.attempts, len(PAUSES_SECONDS)) - 1]
        tried.not_before = time.monotonic() + pause

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
        with (folder / ".lock").open("rb") as lock:  # also where nothing can be written
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise RunError(f"{folder}: {error.strerror}") from error
    return False
