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
    journal/damage.json            what was found damaged, and what was done about it
    damaged/0001/...               those files, where they stood before; nothing is deleted
    matrix/MODEL.safetensors, .json  a model, and its scores at every site, where that was asked

Each JSON file carries its checksum, says which run and place it is of (``common.sealed``), and
holds the checksum of the weights that it tells of. ``server.recovery`` takes a run whose files
are damaged to its last good state.
"""

import fcntl
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

from common.errors import DamagedError, RunError, RunInUseError, StorageError
from common.events import HUB, emit
from common.files import sync_folder, writing
from common.messages import Enrolment, UpdateReport
from common.sealed import MISSING, read_sealed, write_sealed
from common.study.typed import as_typed
from common.tensors import CHANGED, Weights, check_digest, digest_of, write_tensors
from server.run import run_of


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
        lost: Why nothing more is known of the round, where its record was lost; else empty.
    """

    number: int
    accepted: tuple[Accepted, ...]
    refused: dict[str, str]
    digest: str
    seconds: float
    fold_seconds: float
    gap_seconds: float
    marks: dict[str, str] = field(default_factory=dict)
    lost: str = ""


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
        digest: SHA-256 of the best weights' file.
    """

    best: Best | None = None
    history: dict[str, float] = field(default_factory=dict)
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """Who takes part since before the first round, and who was turned away and why."""

    sites: dict[str, Enrolment] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A file that was not what had been written there, and what was done.

    Attributes:
        file: Its place in the run's folder.
        what: What was wrong with it.
        then: What the run does without it.
        found: Time, ISO 8601, UTC.
    """

    file: str
    what: str
    then: str
    found: str


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

    def whole_model(self, number: int) -> Path:
        """Return the weights file of a closed round, held against its checksum.

        Raises:
            DamagedError: If it is missing or is not what was written there.
        """
        check_digest(self.model(number), self.closed_round(number).digest)
        return self.model(number)

    def whole_best_model(self) -> Path:
        """Return the best weights' file if it holds the weights of a closed round.

        A run that goes on has them a moment before it says which round they are of.

        Raises:
            DamagedError: If it is missing or is not what was written there.
        """
        if not self.best_model.exists():
            raise DamagedError(self.best_model, MISSING)
        if digest_of(self.best_model) not in {c.digest for c in self.closed_rounds()}:
            raise DamagedError(self.best_model, CHANGED)
        return self.best_model

    @cached_property
    def run(self) -> str:
        """Identifier of the run, which every record carries; empty for a journal by itself."""
        return run_of(self.folder)

    def record(self, name: str) -> Path:
        """Return the file of a single record."""
        return self._journal / f"{name}.json"

    def round_record(self, number: int) -> Path:
        """Return the file of a closed round."""
        return self.record(f"round-{number:04d}")

    def place(self, path: Path) -> str:
        """Return what a file is called in the run's folder."""
        return path.relative_to(self.folder).as_posix()

    def closed_rounds(self) -> list[ClosedRound]:
        """Read all closed rounds, in order.

        Raises:
            DamagedError: If one is missing or damaged.
        """
        numbers = self.recorded()
        for number, recorded in enumerate(numbers, 1):
            if number != recorded:
                raise DamagedError(self.round_record(number), MISSING)
        return [self.closed_round(number) for number in numbers]

    def closed_round(self, number: int) -> ClosedRound:
        """Read one closed round.

        Raises:
            DamagedError: If its record is missing or damaged.
        """
        closed: ClosedRound = self.unseal(ClosedRound, self.round_record(number))
        return closed

    def recorded(self) -> list[int]:
        """Return the numbers of all records of closed rounds, damaged or not."""
        return _numbers(self._journal.glob("round-*.json"))

    def folded(self) -> list[int]:
        """Return the numbers of all rounds whose weights are there, damaged or not."""
        return _numbers(self._models.glob("round-*.safetensors"))

    def begun(self) -> list[int]:
        """Return the numbers of all rounds that have a folder of updates."""
        return _numbers(self._journal.glob("round-*/"))

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
        folder = self.round_folder(report.round + staleness)
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
        self.seal(folder / f"{report.site}.json", asdict(accepted))
        return accepted

    def accepted(self, number: int) -> dict[str, Accepted]:
        """Read the updates of an open round that are whole; others are as if never sent."""
        whole, damaged = self.updates(number)
        for site in damaged:
            emit(HUB, "update_damaged", round=number, site=site)
        return whole

    def updates(self, number: int) -> tuple[dict[str, Accepted], dict[str, DamagedError]]:
        """Read a round's updates by site: those that are whole, and what others lack."""
        whole: dict[str, Accepted] = {}
        damaged: dict[str, DamagedError] = {}
        for path in sorted(self.round_folder(number).glob("*.json")):
            try:
                accepted: Accepted = self.unseal(Accepted, path)
                check_digest(path.with_suffix(".safetensors"), accepted.digest)
                whole[accepted.report.site] = accepted
            except DamagedError as error:
                damaged[path.stem] = error
        return whole, damaged

    def update_file(self, number: int, site: str) -> Path:
        """Return the weights file of an accepted update."""
        return self.round_folder(number) / f"{site}.safetensors"

    def close(self, closed: ClosedRound) -> None:
        """Close a round whose weights are on disk, and let go of what it no longer needs."""
        self.seal(self.round_record(closed.number), asdict(closed))
        self.tidy(closed.number)

    def tidy(self, number: int) -> None:
        """Remove the updates of a closed round and all weights older than the one before.

        The one before is kept: it is scored, and may prove the best, only in the round after.
        """
        for begun in self.begun():
            if begun <= number:
                shutil.rmtree(self.round_folder(begun))
        for folded in self.folded():
            if folded < number - 1:
                self.model(folded).unlink()

    def keep_best(self, number: int) -> None:
        """Copy a round's weights to the best, whole or not at all."""
        _copy(self.model(number), self.best_model)

    def bring_back(self, number: int) -> None:
        """Copy the best weights to those of the round that they are of."""
        _copy(self.best_model, self.model(number))

    def set_aside(self, paths: Sequence[Path]) -> None:
        """Move files and folders that must not count any more to a place of their own."""
        above = self.folder / "damaged"
        number = 1 + max((int(p.name) for p in above.glob("[0-9]*")), default=0)
        for path in paths:
            moved = above / f"{number:04d}" / self.place(path)
            try:
                moved.parent.mkdir(parents=True, exist_ok=True)
                path.rename(moved)
                sync_folder(path.parent)
            except OSError as error:
                raise StorageError(f"{path}: cannot be moved: {error.strerror}") from error

    def write(self, name: str, value: Any) -> None:
        """Write one of the journal's single records (a dataclass or plain JSON)."""
        plain = asdict(value) if hasattr(value, "__dataclass_fields__") else value
        self.seal(self.record(name), plain)

    def read(self, name: str, kind: Any) -> Any:
        """Read one of the single records, or None where there is none yet.

        Raises:
            DamagedError: If it is damaged.
        """
        path = self.record(name)
        return self.unseal(kind, path) if path.exists() else None

    def round_folder(self, number: int) -> Path:
        """Return the folder of a round's updates."""
        return self._journal / f"round-{number:04d}"

    def seal(self, path: Path, plain: Any) -> None:
        """Write a record of this run into its folder, with its checksum."""
        write_sealed(path, plain, file=self.place(path), run=self.run)

    def unseal(self, kind: Any, path: Path) -> Any:
        """Read what :meth:`seal` wrote.

        Raises:
            DamagedError: If it is not what was written there, or is missing.
            RunError: If it is, but by a release that has another form of it.
        """
        plain = read_sealed(path, file=self.place(path), run=self.run)
        value, problems = as_typed(kind, plain)
        if value is None:  # it is what was written, so this is no damage
            what = f"does not have the form of this release: {problems[0][1]}"
            raise RunError(f"{path}: {what}; go on with the release that wrote it")
        return value


def _numbers(paths: Iterable[Path]) -> list[int]:
    found = (re.fullmatch(r"round-(\d{4,})", path.stem) for path in paths)
    return sorted({int(match[1]) for match in found if match})


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as file, writing(target) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


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
