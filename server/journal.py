"""The crash-safe state of a run: what is on disk has happened, nothing else has.

::

    run.json                       study, hash, versions, seeds, sites
    initial.safetensors            weights before round 1, every parameter with its kind
    journal/enrolment.json         what the sites said of themselves
    journal/round-0001/A.safetensors, A.json
                                   an accepted update; the JSON is written last and counts
    journal/round-0001.json        the round is closed; written after the weights
    models/round-0001.safetensors  the weights that it closed with (the last two are kept)
    models/best.safetensors        the best round's, by the study's metric
    journal/pooled.json            intensity statistics, fixed for the run
    journal/best.json              the best round, and the metric of every scored round
    journal/last.json              validation of the weights after the last round
    journal/alone.json             that the sites trained alone, for comparison
    journal/final.json             held-out cases under the best weights
    matrix/MODEL.safetensors, .json  a model, and its scores at every site, where that was asked
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from common.errors import RunError, RunInUseError
from common.events import HUB, emit
from common.files import write_json, writing
from common.messages import UpdateReport
from common.study.typed import as_typed
from common.tensors import Weights, digest_of, write_tensors


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """One update on disk.

    Attributes:
        report: What the site told beside the weights.
        norm: L2 norm of its change.
        sent: Bytes of the job.
        received: Bytes of the answer.
        seconds: From question to answer.
        digest: SHA-256 of the weights file.
        staleness: Rounds that passed since the site was asked; 0 unless it was late.
    """

    report: UpdateReport
    norm: float
    sent: int
    received: int
    seconds: float
    digest: str
    staleness: int = 0


@dataclass(frozen=True, kw_only=True)
class ClosedRound:
    """One closed round.

    Attributes:
        number: Counted from 1.
        accepted: Updates that counted, without their weights.
        refused: Reason by site, for every site that was asked and did not count.
        digest: SHA-256 of the weights file that the round closed with.
        seconds: From the round's start to its end.
        fold_seconds: Part of it that went into averaging.
        gap_seconds: From the end of the round before to the start of this one.
        marks: Accepted sites whose cases do not add up, with what does not.
    """

    number: int
    accepted: tuple[Accepted, ...]
    refused: dict[str, str]
    digest: str
    seconds: float
    fold_seconds: float
    gap_seconds: float
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best round so far: its number and the metric that chose it."""

    round: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which weights are kept beside the last.

    Attributes:
        best: The best round, or None before any validation.
        history: Metric of each validated round.
    """

    best: Best | None = None
    history: dict[str, float] = field(default_factory=dict)


@final
class Journal:
    """Reads and writes one run's folder.

    Attributes:
        folder: The run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._journal = folder / "journal"
        self._models = folder / "models"
        self._journal.mkdir(exist_ok=True)
        self._models.mkdir(exist_ok=True)

    def model(self, number: int) -> Path:
        """Return the weights file of a closed round; of round 0, the initial one."""
        if number == 0:
            return self.folder / "initial.safetensors"
        return self._models / f"round-{number:04d}.safetensors"

    @property
    def best_model(self) -> Path:
        """The best round's weights."""
        return self._models / "best.safetensors"

    def closed_rounds(self) -> list[ClosedRound]:
        """Read all closed rounds, in order.

        Raises:
            RunError: If one is missing or damaged.
        """
        files = self._journal.glob("round-[0-9]*.json")
        rounds = sorted((_read(ClosedRound, path) for path in files), key=lambda r: r.number)
        if [r.number for r in rounds] != list(range(1, len(rounds) + 1)):
            raise RunError(
                f"{self._journal}: rounds are missing; found {[r.number for r in rounds]}"
            )
        return rounds

    def closed_round(self, number: int) -> ClosedRound:
        """Read one closed round."""
        closed: ClosedRound = _read(ClosedRound, self._journal / f"round-{number:04d}.json")
        return closed

    def check_model(self, closed: ClosedRound) -> None:
        """Hold a closed round's weights against its digest.

        Raises:
            RunError: If they are missing or were changed.
        """
        path = self.model(closed.number)
        if not path.exists() or digest_of(path) != closed.digest:
            raise RunError(f"{path}: is not what round {closed.number} wrote; restore it")

    def accept(
        self,
        report: UpdateReport,
        weights: Weights,
        *,
        norm: float,
        traffic: tuple[int, int],
        seconds: float,
        staleness: int = 0,
    ) -> Accepted:
        """Put an update on disk; only now it counts."""
        folder = self._round_folder(report.round + staleness)
        folder.mkdir(exist_ok=True)
        path = folder / f"{report.site}.safetensors"
        write_tensors(path, weights, {})
        accepted = Accepted(
            report=report,
            norm=norm,
            sent=traffic[0],
            received=traffic[1],
            seconds=seconds,
            digest=digest_of(path),
            staleness=staleness,
        )
        write_json(folder / f"{report.site}.json", asdict(accepted))
        return accepted

    def accepted(self, number: int) -> dict[str, Accepted]:
        """Read the updates of an open round that are whole; others are as if never sent."""
        found = {}
        for path in sorted(self._round_folder(number).glob("*.json")):
            weights = path.with_suffix(".safetensors")
            try:
                accepted = _read(Accepted, path)
                whole = weights.exists() and digest_of(weights) == accepted.digest
            except RunError:
                whole = False
            if whole:
                found[accepted.report.site] = accepted
            else:
                emit(HUB, "update_damaged", round=number, site=path.stem)
        return found

    def update_file(self, number: int, site: str) -> Path:
        """Return the weights file of an accepted update."""
        return self._round_folder(number) / f"{site}.safetensors"

    def close(self, closed: ClosedRound) -> None:
        """Close a round whose weights are on disk, and let go of what it no longer needs."""
        write_json(self._journal / f"round-{closed.number:04d}.json", asdict(closed))
        self.tidy(closed.number)

    def tidy(self, number: int) -> None:
        """Remove the updates of a closed round and all weights older than the one before.

        The one before is kept: it is scored, and may prove the best, only in the round after.
        """
        for folder in self._journal.glob("round-[0-9]*/"):
            if int(folder.name.removeprefix("round-")) <= number:
                shutil.rmtree(folder)
        for path in self._models.glob("round-*.safetensors"):
            if int(path.stem.removeprefix("round-")) < number - 1:
                path.unlink()

    def keep_best(self, number: int) -> None:
        """Copy a round's weights to the best, whole or not at all."""
        with self.model(number).open("rb") as source, writing(self.best_model) as target:
            shutil.copyfileobj(source, target, 1 << 20)

    def write(self, name: str, value: Any) -> None:
        """Write one of the journal's single records (a dataclass or plain JSON)."""
        plain = asdict(value) if hasattr(value, "__dataclass_fields__") else value
        write_json(self._journal / f"{name}.json", plain)

    def read(self, name: str, kind: Any) -> Any:
        """Read one of the single records, or None where there is none yet."""
        path = self._journal / f"{name}.json"
        return _read(kind, path) if path.exists() else None

    def _round_folder(self, number: int) -> Path:
        return self._journal / f"round-{number:04d}"


def _read(kind: Any, path: Path) -> Any:
    try:
        value, problems = as_typed(kind, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if value is None:
        raise RunError(f"{path}: is damaged: {problems[0]}")
    return value


@contextmanager
def owning(folder: Path) -> Iterator[None]:
    """Hold a run's folder for one process.

    Raises:
        RunInUseError: If another process holds it.
    """
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunInUseError(
                f"{folder}: another process works on this run; wait for it, or "
                "choose another folder"
            ) from None
        yield
