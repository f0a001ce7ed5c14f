"""Before a run goes on: what of its folder is damaged, and from which state it can go on.

The last good state is the newest closed round whose record and weights are what was written.
What lies behind it is set aside and done again; of a round before it, only what its record said
is lost. What was pooled can be made again from what the sites told; the initial weights and the
study cannot, so there the run stops.

Everything is looked at first. Then it is said, in the log, the audit log and the run's own
record, and only then a file is moved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, final

from common.errors import DamagedError
from common.events import HUB, emit
from common.messages import Evaluation, Pooled
from common.sealed import MISSING
from common.study.study import Study
from common.tensors import CHANGED, check_digest, digest_of
from server.enrolment import pool
from server.journal import Best, Chosen, ClosedRound, Damage, Enrolled, Journal
from server.run import RunInfo
from server.selection import best_in, history_of

AGAIN = "it is asked for again"
CHOSEN_AGAIN = "the best round is chosen again"
MATRIX = "matrix"
Clock = Callable[[], datetime]


def recover(journal: Journal, info: RunInfo, clock: Clock = lambda: datetime.now(UTC)) -> None:
    """Bring a run's folder to its last good state, and say what that took.

    Args:
        journal: The run's; held by this process alone.
        info: Its ``run.json``.
        clock: Tells the time.

    Raises:
        DamagedError: If there is no good state; then nothing was changed.
    """
    found = _Findings(journal, clock().isoformat(timespec="seconds"))
    try:
        check_digest(journal.model(0), info.initial)
        rounds = _closed_rounds(found, info.typed_study.federation.rounds)
        _look_at_best(found, rounds, info.initial)
        for name in ("last", "alone", "final"):
            found.read(name, dict[str, Any], AGAIN)
        _look_at_pooled(found, rounds, info.typed_study)
        _look_at_updates(found, len(rounds) + 1)
        _look_at_matrix(found)
    except DamagedError as error:
        file = journal.place(error.path)
        emit(HUB, "journal_damaged", file=file, reason=error.what, then="the run stops")
        raise
    found.carry_out()


@final
class _Findings:
    """What is damaged and what is to be done about it; nothing is done before the end."""

    def __init__(self, journal: Journal, now: str) -> None:
        self.journal, self._now = journal, now
        self._damage: list[Damage] = []
        self._aside: list[Path] = []
        self._repairs: list[Callable[[], object]] = []
        self._digests: dict[Path, str] = {}
        then = "begun anew; what was found before is no longer listed"
        self.earlier: Sequence[Damage] = self.read("damage", tuple[Damage, ...], then) or ()

    def note(self, path: Path, what: str, then: str) -> None:
        """Say what is wrong with a file and what is done; it will be set aside."""
        file = self.journal.place(path)
        self._damage.append(Damage(file=file, what=what, then=then, found=self._now))
        self.put_aside(path)

    def put_aside(self, *paths: Path) -> None:
        """Set files or folders aside that are not damaged, but must not count any more."""
        self._aside.extend(paths)

    def repair(self, how: Callable[[], object]) -> None:
        """Do something when all damaged files are out of the way."""
        self._repairs.append(how)

    def read(self, name: str, kind: Any, then: str) -> Any:
        """Read a single record, noting a damaged one; None where none counts."""
        if self.is_aside(self.journal.record(name)):
            return None
        try:
            return self.journal.read(name, kind)
        except DamagedError as error:
            self.note(error.path, error.what, then)
            return None

    def wrong(self, path: Path, digest: str) -> str:
        """Return what is wrong with a file that should have a checksum; empty for nothing."""
        if path not in self._digests:
            self._digests[path] = digest_of(path) if path.exists() else MISSING
        held = self._digests[path]
        return MISSING if held == MISSING else "" if held == digest else CHANGED

    def is_aside(self, path: Path) -> bool:
        """Whether a file will be set aside."""
        return path in self._aside

    def is_told(self, path: Path) -> bool:
        """Whether something is wrong with a file."""
        file = self.journal.place(path)
        return any(d.file == file for d in self._damage)

    def was_told_of(self, name: str) -> bool:
        """Whether a record was once damaged, so that this is not the first of its name."""
        file = self.journal.place(self.journal.record(name))
        return any(d.file == file for d in self.earlier)

    def carry_out(self) -> None:
        """Say what was found, write it down, set it aside, and repair what can be repaired."""
        if not self._damage and not self._aside:
            return
        for damage in self._damage:
            emit(HUB, "journal_damaged", file=damage.file, reason=damage.what, then=damage.then)
        log = self.journal.record("damage")
        if log in self._aside:
            self.journal.set_aside([log])
        told = [asdict(damage) for damage in (*self.earlier, *self._damage)]
        self.journal.write("damage", told)
        gone = [path for path in dict.fromkeys(self._aside) if path != log and path.exists()]
        self.journal.set_aside(gone)
        for repair in self._repairs:
            repair()


# --- rounds ------------------------------------------------------------------------------


def _closed_rounds(found: _Findings, planned: int) -> list[ClosedRound]:
    """Find the last good state; return the rounds up to there, the lost ones among them."""
    journal, good, bad = found.journal, {}, {}
    reached = _reached(journal, planned)
    for number in range(1, reached + 1):
        try:
            good[number] = journal.closed_round(number)
        except DamagedError as error:
            bad[number] = error.what
    last = _last_good(found, good)
    if last < reached:
        _go_back(found, (last, reached), good, bad)
    _look_at_kept(found, last, good)
    for number in sorted(n for n in bad if n < last):
        good[number] = _lost(found, number, bad[number])
    return [good[number] for number in range(1, last + 1)]


def _reached(journal: Journal, planned: int) -> int:
    """Return the newest round that was closed, by whatever trace there is of it."""
    begun, folded = journal.begun(), journal.folded()
    # weights without the updates that they were made of: these go when the round is closed
    closed = [number for number in folded if number not in begun]
    ended = any(journal.record(name).exists() for name in ("last", "final"))
    traces = (*journal.recorded(), *(n - 1 for n in begun), *closed, planned if ended else 0)
    return max(traces)


def _last_good(found: _Findings, good: Mapping[int, ClosedRound]) -> int:
    journal = found.journal
    for number in sorted(good, reverse=True):
        digest = good[number].digest
        # the best weights are a copy of some round's
        places = (journal.model(number), journal.best_model)
        if digest and not all(found.wrong(place, digest) for place in places):
            return number
    return 0


def _go_back(
    found: _Findings,
    span: tuple[int, int],
    good: Mapping[int, ClosedRound],
    bad: Mapping[int, str],
) -> None:
    """Set aside every round behind the last good one; ``span`` is that one and the newest."""
    journal, (last, reached) = found.journal, span
    how, (held, _) = "trained again", journal.updates(last + 1)
    if held:
        how = "taken up again with those of its updates that are here"
    if last + 1 in good and all(held.get(a.report.site) == a for a in good[last + 1].accepted):
        how = "closed again from its updates, which are all here"
    then = f"the run goes on from round {last}; round {last + 1} is {how}"
    for number in range(reached, last, -1):
        record, model = journal.round_record(number), journal.model(number)
        if number in bad:
            found.note(record, bad[number], then)
        else:
            what = found.wrong(model, good[number].digest)
            # of rounds before the newest two, it is as it should be that the weights are gone
            if what and (what != MISSING or number >= reached - 1):
                found.note(model, what, then)
        found.put_aside(model, record)
    newer = [n for n in journal.begun() if n > last + 1]
    found.put_aside(*map(journal.round_folder, newer))
    # the figures of weights that are no more; last.json, a trace of the last round, comes last
    found.put_aside(journal.folder / MATRIX, *map(journal.record, ("final", "last")))


def _look_at_kept(found: _Findings, last: int, good: Mapping[int, ClosedRound]) -> None:
    """Hold the weights that the run goes on from, and those before, against their records."""
    journal = found.journal
    if last and (what := found.wrong(journal.model(last), good[last].digest)):
        then = "copied from the best weights, which are the same"
        found.note(journal.model(last), what, then)
        found.repair(partial(journal.bring_back, last))
    before = journal.model(last - 1)
    if last > 1 and before.exists():
        then = "only the choice of the best needs it, and does without"
        if last - 1 not in good:
            found.note(before, "cannot be checked, since its round's record is lost", then)
        elif what := found.wrong(before, good[last - 1].digest):
            found.note(before, what, then)


def _lost(found: _Findings, number: int, what: str) -> ClosedRound:
    """Put a mark in the place of a closed round of which only the record is lost."""
    then = f"round {number} stays closed, since newer weights are whole; what it said is lost"
    path = found.journal.round_record(number)
    found.note(path, what, then)
    lost = ClosedRound(
        number=number, accepted=(), refused={}, digest="", seconds=nan, fold_seconds=nan,
        gap_seconds=nan, lost=f"its record {what}",
    )  # fmt: skip
    found.repair(partial(found.journal.seal, path, asdict(lost)))
    return lost


# --- the best weights --------------------------------------------------------------------


def _look_at_best(found: _Findings, rounds: Sequence[ClosedRound], initial: str) -> None:
    """Hold the best weights against what was chosen, and against what would be chosen now."""
    journal, record = found.journal, found.journal.record("best")
    kept: Chosen | None = found.read("best", Chosen, CHOSEN_AGAIN)
    if not record.exists() and history_of(rounds[:-1], None, Chosen()):
        found.note(record, MISSING, CHOSEN_AGAIN)
    last = len(rounds)
    history = (kept or Chosen()).history
    still = Chosen(history={r: m for r, m in history.items() if int(r) <= last})
    if kept and kept.best and kept.best.round > last:
        found.put_aside(record, journal.best_model)
        found.repair(partial(journal.write, "best", still))
    elif last and found.wrong(journal.model(last), rounds[-1].digest):
        # then the last weights are copied from the best, which must stay where they are
        if kept is None or found.wrong(journal.best_model, kept.digest):
            found.repair(partial(journal.write, "best", still))
    else:
        _look_at_chosen(found, rounds, initial, kept)


def _look_at_chosen(
    found: _Findings, rounds: Sequence[ClosedRound], initial: str, kept: Chosen | None
) -> None:
    journal, digests = found.journal, [initial, *(c.digest for c in rounds)]
    if kept and kept.best and not found.wrong(journal.best_model, kept.digest):
        return
    is_there = journal.best_model.exists()
    scored = found.read("last", dict[str, Evaluation], AGAIN)
    history = history_of(rounds, scored, kept or Chosen())
    if not history and scored is None:
        if is_there and all(found.wrong(journal.best_model, digest) for digest in digests):
            found.note(journal.best_model, "is of no round", "nothing can be chosen yet")
            found.repair(partial(journal.write, "best", Chosen()))
        return
    was_chosen = scored is not None or found.is_told(journal.record("best"))
    if not is_there and not was_chosen and not (kept and kept.best):
        return
    wanted = _wanted(found, history, digests) or [Best(round=len(rounds), value=0.0)]
    plain = {str(r): m for r, m in history.items()}
    for best in wanted:  # a run killed between the two files has newer weights than it tells of
        digest = digests[best.round]
        if not found.wrong(journal.best_model, digest):
            if kept is None:
                chosen = Chosen(best=best, history=plain, digest=digest)
                found.repair(partial(journal.write, "best", chosen))
            return
    _mend_best(found, Chosen(best=wanted[0], history=plain, digest=digests[wanted[0].round]))


def _wanted(
    found: _Findings, history: Mapping[int, float], digests: Sequence[str]
) -> list[Best]:
    """Return the best round of all, and the best of those whose weights are whole."""
    model, best_model = found.journal.model, found.journal.best_model
    whole = {
        r: m
        for r, m in history.items()
        if not all(found.wrong(path, digests[r]) for path in (model(r), best_model))
    }
    return [best for best in (best_in(history), best_in(whole)) if best is not None]


def _mend_best(found: _Findings, chosen: Chosen) -> None:
    """Copy the best weights again where they are still there, or let others be chosen."""
    journal, number = found.journal, chosen.best.round if chosen.best else 0
    what = found.wrong(journal.best_model, chosen.digest)
    if not found.wrong(journal.model(number), chosen.digest):
        found.note(journal.best_model, what, f"copied again from those of round {number}")
        found.repair(partial(journal.keep_best, number))
    else:
        then = "the best is chosen among the rounds whose weights are here, and tested anew"
        found.note(journal.best_model, what, then)
        found.put_aside(journal.folder / MATRIX, journal.record("final"))
        chosen = Chosen(history=chosen.history)
    found.repair(partial(journal.write, "best", chosen))


# --- what the sites told -----------------------------------------------------------------


def _look_at_pooled(found: _Findings, rounds: Sequence[ClosedRound], study: Study) -> None:
    """Hold what was pooled against its checksum; pool it again from the same sites' words."""
    journal, path = found.journal, found.journal.record("pooled")
    then = "written again from what the sites say now"
    enrolled: Enrolled | None = found.read("enrolment", Enrolled, then)
    record = journal.record("enrolment")
    if path.exists() and not record.exists():
        found.note(record, MISSING, then)
    try:
        what = MISSING if journal.read("pooled", Pooled) is None else ""
    except DamagedError as error:
        what = error.what
    if not rounds and not journal.updates(1)[0]:  # nothing that counts was trained with it
        if what not in ("", MISSING):
            found.note(path, what, "pooled again from what the sites say now")
        if found.is_told(record):
            found.put_aside(path)
        return
    if not what:
        return
    if enrolled is None or found.was_told_of("enrolment"):
        raise DamagedError(
            path, f"{what}; rounds were trained with it, and journal/enrolment.json, of which "
            "it could be made again, was damaged too",
        )  # fmt: skip
    found.note(path, what, "pooled again from journal/enrolment.json: the same numbers")
    pooled = pool(enrolled.sites.values(), study)
    found.repair(partial(journal.write, "pooled", pooled))


def _look_at_updates(found: _Findings, number: int) -> None:
    """Set aside what is not whole of the updates of the open round."""
    _, damaged = found.journal.updates(number)
    for site, error in damaged.items():
        found.note(error.path, error.what, f"the update of {site} {AGAIN.removeprefix('it ')}")
        weights = found.journal.update_file(number, site)
        found.put_aside(weights, weights.with_suffix(".json"))


def _look_at_matrix(found: _Findings) -> None:
    """Set aside what is damaged of the scores of every model at every site."""
    folder = found.journal.folder / MATRIX
    for path in [] if found.is_aside(folder) else sorted(folder.glob("*.json")):
        try:
            found.journal.unseal(dict[str, Any], path)
        except DamagedError as error:
            found.note(path, error.what, AGAIN)
