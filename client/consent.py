"""What a site's own people allow: a ledger of decisions and of the rounds that used them.

A study is approved by its hash, so that one changed field makes it another study, which waits;
a search by that of all that its trials have in common.
The worker asks here before it opens a case; whatever is not plainly allowed is refused, with a
fixed reason that may leave the site. This guards against mistakes and against a hub that asks
for more than was agreed; it does not guard against whoever may write the ledger.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from common.audit import AuditLog, Clock, Record, head_path, now_utc, records_of
from common.catalogue import unknown
from common.errors import AuditError, ConsentError, InputError, RunError
from common.study.study import Study, approval_hash
from common.study.typed import as_typed

LEDGER = "ledger.jsonl"
USUAL_OUTPUTS = ("updates", "metrics", "affinities", "statistics")
OUTPUTS = (*USUAL_OUTPUTS, "models")
ENROL, TRAIN, ALONE, EVALUATE, SHARE = "enrol", "train", "alone", "evaluate", "share"
# which action leads from which state to which
STEPS: dict[str, tuple[tuple[str, ...], str]] = {
    "approve": (("waiting", "approved", "denied", "paused", "withdrawn"), "approved"),
    "deny": (("waiting", "approved", "denied", "paused", "withdrawn"), "denied"),
    "pause": (("approved",), "paused"),
    "resume": (("paused",), "approved"),
    "withdraw": (("approved", "paused"), "withdrawn"),
}
BEGUN, FINISHED, WENT_BACK = "round_begun", "round_finished", "hub_went_back"
SMALLEST_CASES = 5
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How far an approval goes.

    Attributes:
        rounds: Most rounds that may be trained, in all runs of the study; none for no limit.
        until: Last day, as 2026-12-31, UTC; none for no end.
        minimum_cases: Fewest training cases, in each modality that the site trains.
        outputs: What may leave: ``updates`` (weights), ``metrics`` (losses and scores),
            ``affinities`` (class affinities), ``statistics`` (intensity sums), ``models`` (the
            model trained alone; not by default).
    """

    rounds: int | None = None
    until: str | None = None
    minimum_cases: int = SMALLEST_CASES
    outputs: tuple[str, ...] = USUAL_OUTPUTS


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided about one study.

    Attributes:
        action: What.
        study: Hash of the study, see :func:`common.study.study.approval_hash`.
        by: Who decided, in their own words.
        limits: Of an approval; none otherwise.
        time: When, UTC.
    """

    action: str
    study: str
    by: str
    limits: Limits | None
    time: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a study stands at the site.

    Attributes:
        state: ``waiting``, ``approved``, ``denied``, ``paused`` or ``withdrawn``.
        limits: Of the newest approval, if there is one.
        rounds: Rounds that were begun, each once however often it was repeated.
        decision: The newest, if there is one.
        note: Why it is paused, where no person paused it.
    """

    state: str = "waiting"
    limits: Limits | None = None
    rounds: int = 0
    decision: Decision | None = None
    note: str = ""


def outputs_of(study: Study, kind: str) -> frozenset[str]:
    """Return what a job of a study makes leave the site, beside counts, times and its name."""
    found: dict[str, set[str]] = {
        ENROL: set(),
        TRAIN: {"updates", "metrics"},
        ALONE: set(),
        EVALUATE: {"metrics"},
        SHARE: {"models"},
    }
    if any(m.intensity == "hounsfield" for m in study.modalities.values()):
        found[ENROL].add("statistics")
    if study.distillation.weight and len(study.modalities) > 1:
        found[TRAIN].add("affinities")
    return frozenset(found[kind])


def most_rounds(study: Study, limits: Limits) -> int | None:
    """Return how many rounds an approval is good for; None for no end.

    That of a search ends with the search: its trials times the rounds of each.
    """
    if study.search is None:
        return limits.rounds
    all_trials = study.search.trials * study.federation.rounds
    return all_trials if limits.rounds is None else min(limits.rounds, all_trials)


@final
class Consent:
    """A site's ledger, and what follows from it.

    Args:
        folder: Of the ledger; made if it is not there.
        key: Signs the ledger's head after each decision; the worker has none.
        public_key: Of that key, to check the ledger with; follows from ``key``.
        clock: Tells the time.

    Raises:
        RunError: If the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: Ed25519PrivateKey | None = None,
        public_key: Ed25519PublicKey | None = None,
        clock: Clock = now_utc,
    ) -> None:
        self.path, self._key, self._clock = folder / LEDGER, key, clock
        self._public = key.public_key() if key is not None else public_key
        self._read: tuple[Any, list[Record]] = (None, [])
        try:
            folder.mkdir(mode=0o770, parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}") from error

    # --- people ------------------------------------------------------------------------------

    def decide(
        self, study: str, action: str, *, by: str, limits: Limits | None = None
    ) -> Decision:
        """Write a decision down.

        Args:
            study: Hash of the study.
            action: ``approve``, ``deny``, ``pause``, ``resume`` or ``withdraw``.
            by: Who decided.
            limits: Of an approval; by default those of :class:`Limits`.

        Raises:
            InputError: If the decision makes no sense as the study stands, or a limit is none.
            ConsentError: If the clock is behind the ledger.
            AuditError: If the ledger was changed by other hands.
        """
        if not _HASH.fullmatch(study):
            raise InputError(f"{study[:80]!r} is no study's hash; expected 64 digits 0-9a-f")
        before = self.standing(study).state
        if action not in STEPS or before not in STEPS[action][0]:
            what = unknown(action, STEPS) if action not in STEPS else f"cannot follow: {before}"
            raise InputError(f"study {study[:12]}: {action} {what}")
        if action == "approve":
            limits = limits or Limits()
            _check_limits(limits)
        elif limits is not None:
            raise InputError(f"study {study[:12]}: limits belong to an approval")
        self._check_clock()
        log = AuditLog(self.path, key=self._key, clock=self._clock)
        fields: dict[str, Any] = {"study": study, "by": by}
        if limits is not None:
            fields["limits"] = asdict(limits)
        record = log.append(action, **fields)
        if self._key is not None:
            log.sign_head()
        return _decision(record)

    def standing(self, study: str) -> Standing:
        """Return how a study stands.

        Raises:
            AuditError: If the ledger was changed by other hands.
        """
        found = Standing()
        rounds = set()
        for record in self._records():
            if record.get("study") != study:
                continue
            if record["event"] == BEGUN:
                rounds.add((record["run"], record["round"]))
            if record["event"] in STEPS:
                found = _after(found, _decision(record))
            if record["event"] == WENT_BACK and found.state == "approved":
                found = replace(found, state="paused", note=_went_back(record))
        return replace(found, rounds=len(rounds))

    def studies(self) -> tuple[str, ...]:
        """Return the hashes of all studies that something was decided about."""
        return tuple(dict.fromkeys(r["study"] for r in self._records() if r["event"] in STEPS))

    # --- the worker --------------------------------------------------------------------------

    def check(
        self, study: Study, *, run: str, number: int, kind: str, cases: int | None = None
    ) -> None:
        """Refuse a job that is not allowed.

        Args:
            study: As the job has it; its hash is what must be approved.
            run: Of the job.
            number: Round of the job.
            kind: ``enrol``, ``train``, ``alone`` or ``evaluate``.
            cases: Training cases of the modality that has the fewest; None while no case has
                been opened, when nothing is known of them.

        Raises:
            ConsentError: With a fixed reason. Where the hub went back, this is written down and
                the study is paused until a person decides.
            AuditError: If the ledger was changed by other hands.
        """
        name = approval_hash(study)
        stands = self.standing(name)
        if stands.note:
            raise ConsentError("hub went back", f"study {name[:12]}: {stands.note}")
        if stands.state != "approved" or stands.limits is None:
            reason = "not approved" if stands.state == "waiting" else stands.state
            raise ConsentError(reason, f"study {name[:12]}: {reason}")
        self._check_clock()
        if kind == TRAIN:
            self._check_order(name, run, number)
        self._check_limits(stands, study, kind, cases)
        most = most_rounds(study, stands.limits)
        if kind == TRAIN and most is not None:
            is_new = (run, number) not in self._begun(name)
            if is_new and stands.rounds >= most:
                what = f"{stands.rounds} of {most} rounds are used"
                raise ConsentError("rounds used up", f"study {name[:12]}: {what}")

    def begin(self, study: str, run: str, number: int, *, cases: Mapping[str, int]) -> None:
        """Write down that a round is begun, with its training cases by modality."""
        self._append(BEGUN, study=study, run=run, round=number, cases=dict(cases))

    def finish(
        self, study: str, run: str, number: int, *, cases: Mapping[str, int], bytes_out: int
    ) -> None:
        """Write down that a round is finished: cases that were drawn, bytes that will leave."""
        self._append(
            FINISHED, study=study, run=run, round=number, cases=dict(cases), bytes=bytes_out
        )

    def _check_order(self, study: str, run: str, number: int) -> None:
        """Pause the study where a run asks for an earlier round than it was at.

        A hub that was set back, by a backup or by other hands, would otherwise get what the
        site's people know as used up once more, and nobody would see it.
        """
        newest = 0
        for record in self._records():
            if record.get("study") != study:
                continue
            if record["event"] in STEPS:
                newest = 0  # a person has looked at it since
            elif record["event"] == BEGUN and record["run"] == run:
                newest = max(newest, record["round"])
        if number < newest:
            self._append(WENT_BACK, study=study, run=run, round=number, newest=newest)
            raise ConsentError(
                "hub went back", f"study {study[:12]}: {self.standing(study).note}"
            )

    def _append(self, event: str, **fields: Any) -> None:
        AuditLog(self.path, clock=self._clock).append(event, **fields)

    def _begun(self, study: str) -> set[tuple[str, int]]:
        return {
            (r["run"], r["round"])
            for r in self._records()
            if r["event"] == BEGUN and r["study"] == study
        }

    def _check_limits(
        self, stands: Standing, study: Study, kind: str, cases: int | None
    ) -> None:
        limits = stands.limits or Limits()
        name = approval_hash(study)[:12]
        if limits.until is not None:
            today = self._clock().astimezone(UTC).date()
            if today > date.fromisoformat(limits.until):
                raise ConsentError("expired", f"study {name}: approved until {limits.until}")
        missing = outputs_of(study, kind) - set(limits.outputs)
        for output in sorted(missing, key=OUTPUTS.index):  # the weightiest is named
            reason = f"{output} not permitted"
            raise ConsentError(reason, f"study {name}: {kind} would return {output}")
        if cases is not None and cases < limits.minimum_cases:
            what = f"{cases} training cases of a modality, at least {limits.minimum_cases}"
            raise ConsentError("too few cases", f"study {name}: {what}")

    def _check_clock(self) -> None:
        """Refuse to go on in the ledger's past, where nothing ever expires."""
        newest = self._records()[-1:]
        if newest and self._clock() < _time(newest[0]):
            what = f"the clock is behind the newest record, {newest[0]['time']}; set it right"
            raise ConsentError("clock turned back", f"{self.path}: {what}")

    def _records(self) -> list[Record]:
        """Read the ledger where it changed since it was last read."""
        state = [_state(path) for path in (self.path, head_path(self.path))]
        if self._read[0] != state:
            self._read = (state, records_of(self.path, self._public))
        return self._read[1]


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _time(record: Record) -> datetime:
    try:
        return datetime.fromisoformat(record["time"])
    except ValueError as error:
        raise AuditError(f"record {record['n']}: its time cannot be read") from error


def _decision(record: Record) -> Decision:
    limits = None
    if record["event"] == "approve":
        limits, problems = as_typed(Limits, record.get("limits"))
        if limits is None:
            what = problems[0][1] if problems else "cannot be read"
            raise AuditError(f"record {record['n']}: limits: {what}")
    return Decision(
        action=record["event"],
        study=str(record["study"]),
        by=str(record.get("by", "")),
        limits=limits,
        time=record["time"],
    )


def _went_back(record: Record) -> str:
    return (
        f"run {record['run']}: the hub asks for round {record['round']}, after round "
        f"{record['newest']} was begun here; ask the coordinator why, then approve anew"
    )


def _after(before: Standing, decision: Decision) -> Standing:
    """Return how a study stands after a decision; one that cannot follow changes nothing."""
    wanted, state = STEPS[decision.action]
    if before.state not in wanted:
        return before
    return Standing(state=state, limits=decision.limits or before.limits, decision=decision)


def _check_limits(limits: Limits) -> None:
    if limits.rounds is not None and limits.rounds < 1:
        raise InputError(f"rounds is {limits.rounds}, expected 1 or more, or none")
    if limits.minimum_cases < 1:
        raise InputError(f"minimum_cases is {limits.minimum_cases}, expected 1 or more")
    if limits.until is not None and not _is_date(limits.until):
        raise InputError(f"until is {limits.until!r}, expected a day such as 2026-12-31")
    _check_outputs(limits.outputs)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _check_outputs(outputs: Sequence[str]) -> None:
    for name, count in Counter(outputs).items():
        if name not in OUTPUTS:
            raise InputError(f"outputs: {name!r} {unknown(name, OUTPUTS)}")
        if count > 1:
            raise InputError(f"outputs: {name} is given twice")
