import errno
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.consent import (
    ALONE,
    ENROL,
    EVALUATE,
    OUTPUTS,
    STEPS,
    TRAIN,
    Consent,
    Limits,
    Standing,
    outputs_of,
)
from client.failures import CONSENT_SENTENCES, UNKNOWN, failure_of
from common.audit import verify
from common.errors import (
    AuditError,
    ConsentError,
    FedsegError,
    InputError,
    QuorumError,
    ReportedError,
    RunError,
)
from common.study import Distillation, Modality, SearchTerms, approval_hash, study_hash
from common.study.losses import Dice as DiceLoss
from common.study.networks import DynUNet
from tests.support.studies import small_study

STUDY = small_study()
HASH = study_hash(STUDY)
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


class Clock:
    """A clock that people may set."""

    def __init__(self):
        self.time = NOON

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def consent(tmp_path, clock):
    return Consent(tmp_path / "consent", clock=clock)


def check(consent, study=STUDY, *, run="run-1", number=1, kind=TRAIN, cases=None):
    consent.check(study, run=run, number=number, kind=kind, cases=cases)


def reason_of(consent, *arguments, **named):
    with pytest.raises(ConsentError) as caught:
        check(consent, *arguments, **named)
    return caught.value.reason


def test_a_study_that_nobody_decided_about_waits(consent):
    assert consent.standing(HASH) == Standing()
    assert reason_of(consent) == "not approved"


def test_an_approved_study_may_do_everything_that_it_was_approved_for(consent):
    decision = consent.decide(HASH, "approve", by="Dr. A")

    for kind in (ENROL, TRAIN, ALONE, EVALUATE):
        check(consent, kind=kind, cases=5)
    stands = consent.standing(HASH)
    assert (stands.state, stands.limits, stands.rounds) == ("approved", Limits(), 0)
    assert stands.decision == decision
    assert (decision.by, decision.time) == ("Dr. A", "2026-11-24T12:00:00.000Z")
    assert consent.studies() == (HASH,)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"seed": 2},
        {"distillation": Distillation(weight=0.25)},
        {"labels": tuple(reversed(STUDY.labels))},
        {"federation": replace(STUDY.federation, rounds=21)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_one_changed_field_makes_another_study_which_waits(consent, change):
    consent.decide(HASH, "approve", by="A")

    assert reason_of(consent, replace(STUDY, **change)) == "not approved"


HISTORIES = {
    "denied": (("deny",), "denied"),
    "paused": (("approve", "pause"), "paused"),
    "withdrawn": (("approve", "withdraw"), "withdrawn"),
    "withdrawn from a pause": (("approve", "pause", "withdraw"), "withdrawn"),
    "denied after all": (("approve", "deny"), "denied"),
}


@pytest.mark.parametrize(("actions", "reason"), HISTORIES.values(), ids=HISTORIES)
def test_what_is_not_approved_now_is_refused_for_its_own_reason(consent, actions, reason):
    for action in actions:
        consent.decide(HASH, action, by="A")

    for kind in (ENROL, TRAIN, ALONE, EVALUATE):
        assert reason_of(consent, kind=kind) == reason
    assert consent.standing(HASH).state == reason


@pytest.mark.parametrize(
    "actions",
    [("approve", "pause", "resume"), ("approve", "pause", "approve"), ("deny", "approve")],
    ids="-".join,
)
def test_people_may_change_their_minds(consent, actions):
    for action in actions:
        consent.decide(HASH, action, by="A")

    check(consent)


def test_a_pause_keeps_the_limits(consent):
    limits = Limits(
        rounds=3, until="2026-12-31", minimum_cases=2, outputs=("updates", "metrics")
    )
    consent.decide(HASH, "approve", by="A", limits=limits)
    consent.decide(HASH, "pause", by="B")
    consent.decide(HASH, "resume", by="B")

    assert consent.standing(HASH).limits == limits


@pytest.mark.parametrize(
    ("before", "action"),
    [
        ((), "pause"),
        ((), "resume"),
        ((), "withdraw"),
        (("approve",), "resume"),
        (("deny",), "pause"),
    ],
    ids=str,
)
def test_a_decision_that_makes_no_sense_is_told_to_whoever_makes_it(consent, before, action):
    for step in before:
        consent.decide(HASH, step, by="A")

    with pytest.raises(InputError, match=f"{action} cannot follow"):
        consent.decide(HASH, action, by="A")


WRONG = {
    "no hash": (("abc", "approve", None), "is no study's hash"),
    "no action": ((HASH, "aprove", None), "did you mean approve"),
    "limits of a denial": ((HASH, "deny", Limits()), "limits belong to an approval"),
    "no round": ((HASH, "approve", Limits(rounds=0)), "rounds is 0"),
    "no case": ((HASH, "approve", Limits(minimum_cases=0)), "minimum_cases is 0"),
    "no day": ((HASH, "approve", Limits(until="31.12.2026")), "expected a day such as"),
    "a day in other words": ((HASH, "approve", Limits(until="20261231")), "expected a day"),
    "no output": ((HASH, "approve", Limits(outputs=("update",))), "did you mean updates"),
    "an output twice": ((HASH, "approve", Limits(outputs=("metrics",) * 2)), "given twice"),
}


@pytest.mark.parametrize(("given", "match"), WRONG.values(), ids=WRONG)
def test_a_wrong_decision_is_refused_and_nothing_is_written(consent, given, match):
    study, action, limits = given

    with pytest.raises(InputError, match=match):
        consent.decide(study, action, by="A", limits=limits)

    assert not consent.path.exists()


def test_an_approval_ends_with_its_last_day(consent, clock):
    consent.decide(HASH, "approve", by="A", limits=Limits(until="2026-11-25"))

    clock.time = datetime(2026, 11, 25, 23, 59, 59, tzinfo=UTC)
    check(consent)
    clock.time = datetime(2026, 11, 26, tzinfo=UTC)
    assert reason_of(consent) == "expired"


def test_a_clock_turned_back_brings_no_approval_back(consent, clock):
    consent.decide(HASH, "approve", by="A", limits=Limits(until="2026-11-25"))
    clock.time = NOON + timedelta(days=30)
    consent.decide("0" * 64, "deny", by="A")

    clock.time = NOON + timedelta(hours=1)

    assert reason_of(consent) == "clock turned back"
    with pytest.raises(ConsentError, match="set it right"):
        consent.decide(HASH, "deny", by="A")


def test_rounds_are_counted_once_however_often_they_are_repeated(consent):
    consent.decide(HASH, "approve", by="A", limits=Limits(rounds=2))
    for number in (1, 1, 2, 2):
        check(consent, number=number)
        consent.begin(HASH, "run-1", number, cases={"ct": 7})

    assert consent.standing(HASH).rounds == 2
    check(consent, number=2)
    assert reason_of(consent, number=3) == "rounds used up"
    assert reason_of(consent, number=1, run="run-2") == "rounds used up"
    for kind in (ENROL, ALONE, EVALUATE):
        check(consent, number=2, kind=kind)


def test_a_hub_that_goes_back_waits_for_a_person(consent, tmp_path, clock):
    consent.decide(HASH, "approve", by="A")
    for number in (1, 2, 3):
        check(consent, number=number)
        consent.begin(HASH, "run-1", number, cases={"ct": 5})
    check(consent, number=3)  # asked again: its answer was lost
    check(consent, number=1, run="run-2")

    assert reason_of(consent, number=2) == "hub went back"

    stands = Consent(tmp_path / "consent", clock=clock).standing(HASH)
    assert stands.state == "paused"
    assert "asks for round 2, after round 3 was begun here" in stands.note
    for kind in (ENROL, TRAIN, ALONE, EVALUATE):  # whatever is asked, until a person has looked
        assert reason_of(consent, number=4, kind=kind) == "hub went back"
    consent.decide(HASH, "approve", by="A")
    check(consent, number=2)
    consent.begin(HASH, "run-1", 2, cases={"ct": 5})
    assert reason_of(consent, number=1) == "hub went back"


def search_of(trials=2, rounds=3, over="network"):
    federation = replace(STUDY.federation, rounds=rounds)
    terms = SearchTerms(over=over, trials=trials)
    return replace(STUDY, federation=federation, search=terms)


def test_the_approval_of_a_search_is_that_of_all_its_trials_and_of_nothing_else(consent):
    shown = search_of()
    consent.decide(approval_hash(shown), "approve", by="a person")
    trial = replace(shown, network=DynUNet())

    check(consent, trial)

    for other in (
        replace(trial, loss=DiceLoss()),
        replace(trial, search=None),
        replace(trial, search=replace(trial.search, over="both")),
        replace(trial, seed=9),
        replace(trial, federation=replace(trial.federation, rounds=4)),
    ):
        assert reason_of(consent, other) == "not approved"


@pytest.mark.parametrize(("limit", "most"), [(None, 6), (4, 4), (100, 6)])
def test_the_rounds_of_a_search_end_with_its_last_trial(consent, limit, most):
    study = search_of(trials=2, rounds=3)
    name = approval_hash(study)
    consent.decide(name, "approve", by="a person", limits=Limits(rounds=limit))
    for n in range(most):
        run, number = f"run-{n // 3}", n % 3 + 1
        check(consent, study, run=run, number=number)
        consent.begin(name, run, number, cases={"ct": 9})

    assert reason_of(consent, study, run="run-2", number=1) == "rounds used up"
    check(consent, study, run=run, number=number)  # a repeat of the last one


def test_rounds_of_other_studies_do_not_count(consent):
    consent.decide(HASH, "approve", by="A", limits=Limits(rounds=1))
    consent.begin("1" * 64, "run-9", 1, cases={})

    check(consent)


def test_a_new_approval_does_not_give_used_rounds_back(consent):
    for number in (1, 2):
        consent.decide(HASH, "approve", by="A", limits=Limits(rounds=number))
        consent.begin(HASH, "run-1", number, cases={})

    assert reason_of(consent, number=3) == "rounds used up"


def test_fewer_cases_than_asked_for_are_refused_once_they_are_known(consent):
    consent.decide(HASH, "approve", by="A", limits=Limits(minimum_cases=6))

    check(consent, cases=None)
    check(consent, cases=6)
    assert reason_of(consent, cases=5) == "too few cases"


OUT = {
    "enrolment pools intensities": (STUDY, ENROL, {"statistics"}),
    "no pooling without hounsfield": (
        small_study(modalities={"mr": Modality(intensity="arbitrary")}),
        ENROL,
        set(),
    ),
    "training": (STUDY, TRAIN, {"updates", "metrics", "affinities"}),
    "training of one modality": (
        small_study(modalities={"mr": Modality(intensity="arbitrary")}),
        TRAIN,
        {"updates", "metrics"},
    ),
    "training without distillation": (
        small_study(distillation=Distillation(weight=0)),
        TRAIN,
        {"updates", "metrics"},
    ),
    "training alone": (STUDY, ALONE, set()),
    "evaluation": (STUDY, EVALUATE, {"metrics"}),
}


@pytest.mark.parametrize(("study", "kind", "outputs"), OUT.values(), ids=OUT)
def test_what_leaves_follows_from_the_study_and_the_job(study, kind, outputs):
    assert outputs_of(study, kind) == outputs


@pytest.mark.parametrize("missing", OUTPUTS)
def test_an_output_that_is_not_permitted_is_refused_by_name(consent, missing):
    permitted = tuple(name for name in OUTPUTS if name != missing)
    consent.decide(HASH, "approve", by="A", limits=Limits(outputs=permitted))

    for kind in (ENROL, TRAIN, ALONE, EVALUATE):
        if missing in outputs_of(STUDY, kind):
            assert reason_of(consent, kind=kind) == f"{missing} not permitted"
        else:
            check(consent, kind=kind)


def test_every_round_is_written_down_with_its_cases_and_bytes(consent):
    consent.begin(HASH, "run-1", 4, cases={"ct": 7})
    consent.finish(HASH, "run-1", 4, cases={"ct": 6}, bytes_out=1234)

    begun, finished = map(json.loads, consent.path.read_text().splitlines())
    assert (begun["event"], begun["run"], begun["round"]) == ("round_begun", "run-1", 4)
    assert begun["cases"] == {"ct": 7}
    assert (finished["event"], finished["bytes"]) == ("round_finished", 1234)
    assert finished["cases"] == {"ct": 6}
    assert verify(consent.path, None) == []


def test_a_process_with_the_key_signs_each_decision_and_one_without_checks_it(tmp_path, clock):
    people = Consent(tmp_path, key=KEY, clock=clock)
    people.decide(HASH, "approve", by="A")
    worker = Consent(tmp_path, public_key=KEY.public_key(), clock=clock)
    worker.begin(HASH, "run-1", 1, cases={})
    check(worker, cases=9)
    people.decide(HASH, "deny", by="A")

    assert reason_of(worker) == "denied"
    assert verify(people.path, KEY.public_key()) == []
    kept = people.path.read_bytes().splitlines(keepends=True)
    people.path.write_bytes(b"".join(kept[:3]))
    with pytest.raises(AuditError, match="head beside the log"):
        check(worker)


def test_a_ledger_that_was_changed_allows_nothing(consent):
    consent.decide(HASH, "approve", by="A", limits=Limits(rounds=1))
    consent.begin(HASH, "run-1", 1, cases={})
    consent.path.write_text(consent.path.read_text().replace('"rounds":1', '"rounds":9'))

    with pytest.raises(AuditError, match="line 1: was changed"):
        check(consent)


def test_limits_that_cannot_be_read_allow_nothing(tmp_path, clock):
    from common.audit import AuditLog

    log = AuditLog(tmp_path / "ledger.jsonl", clock=clock)
    log.append("approve", study=HASH, by="A", limits={"rounds": "many"})

    with pytest.raises(AuditError, match="limits: "):
        check(Consent(tmp_path, clock=clock))


def test_a_decision_that_cannot_follow_changes_nothing_though_it_stands_in_the_ledger(
    tmp_path, clock
):
    from common.audit import AuditLog

    AuditLog(tmp_path / "ledger.jsonl", clock=clock).append("resume", study=HASH, by="A")

    assert reason_of(Consent(tmp_path, clock=clock)) == "not approved"


def test_what_another_process_decides_is_seen_at_once(tmp_path, clock):
    one, two = (Consent(tmp_path, clock=clock) for _ in range(2))
    one.decide(HASH, "approve", by="A")
    check(two)
    one.decide(HASH, "pause", by="A")

    assert reason_of(two) == "paused"


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(RunError, match="cannot be made"):
        Consent(tmp_path / "file" / "consent")


def test_every_reason_leaves_the_site_as_a_fixed_sentence_of_its_own():
    reasons = {
        "not approved",
        *(state for _, state in STEPS.values() if state != "approved"),
        "expired",
        "clock turned back",
        "hub went back",
        "rounds used up",
        "too few cases",
        *(f"{output} not permitted" for output in OUTPUTS),
    }

    assert reasons == set(CONSENT_SENTENCES)
    assert len(set(CONSENT_SENTENCES.values())) == len(reasons)
    for reason, sentence in CONSENT_SENTENCES.items():
        failure = failure_of(ConsentError(reason, "/data/Mustermann^Erika: 3 of 7"))
        assert (failure.code, failure.sentence) == ("ConsentError", sentence)
        assert not any(c.isdigit() or c in "/^" for c in sentence)


LEAKS = {
    "a reason that is none": ConsentError("/data/Mustermann", "x"),
    "an operating system's error": OSError("/data/Mustermann^Erika is gone"),
    "a run's error": RunError("/data/Mustermann^Erika"),
    "an interrupt": KeyboardInterrupt("Mustermann"),
}


@pytest.mark.parametrize("error", LEAKS.values(), ids=LEAKS)
def test_no_error_takes_a_name_out_of_the_site(error):
    failure = failure_of(error)

    assert "Mustermann" not in failure.code + failure.sentence


def test_an_error_without_a_sentence_of_its_own_has_its_parents():
    assert failure_of(QuorumError("x")).code == "RunError"
    assert failure_of(FedsegError("x")).sentence == UNKNOWN


def test_an_unknown_error_and_one_already_reduced():
    assert failure_of(ValueError("x")).sentence == UNKNOWN
    assert failure_of(PermissionError(errno.EACCES, "x")).sentence == UNKNOWN
    assert failure_of(OSError(errno.EROFS, "x")).code == "StorageError"
    reported = failure_of(ReportedError("CaseError", "a case of the site cannot be used"))
    assert (reported.code, reported.sentence) == (
        "CaseError",
        "a case of the site cannot be used",
    )
