"""Rows 10, 11, 13 and 14: studies, consents and weights files that must not be used."""

import json
import time
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from client.consent import Consent, Limits
from client.data import nifti
from common.errors import ConsentError, FedsegError, IncompatibleWeightsError
from common.messages import Context
from common.study.load import load_study
from common.study.study import canonical_json, study_hash
from common.tensors import read_tensors, tensors_in, write_tensors
from tests.support.federations import DEFAULTS, SMALL, phantom_sites, small_study
from tests.support.jobs import Jobs, worker_of

pytestmark = pytest.mark.slow

JOBS = Jobs(small_study())
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


# --- rows 10 and 11: what the site's people allowed ---------------------------------------------


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    (found,) = phantom_sites(tmp_path_factory.mktemp("site"), modalities=("ct",), cases=6)
    return found


@pytest.fixture
def opened(monkeypatch):
    """Return the list of images that were opened."""
    found, honest = [], nifti.nib.load

    def load(path, *arguments, **keywords):
        found.append(path)
        return honest(path, *arguments, **keywords)

    monkeypatch.setattr(nifti.nib, "load", load)
    return found


def changed(**training):
    return Jobs(replace(JOBS.study, training=replace(JOBS.study.training, **training)))


def nothing(consent):
    pass


def approving(**limits):
    limits = Limits(**{"minimum_cases": 1, **limits})
    return lambda consent: consent.decide(JOBS.hash, "approve", by="A", limits=limits)


def two_rounds_begun(consent):
    approving(rounds=2)(consent)
    for number in (1, 2):
        consent.begin(JOBS.hash, "run-1", number, cases={"ct": 4})


def then(decision, **limits):
    def decide(consent):
        approving(**limits)(consent)
        consent.decide(JOBS.hash, decision, by="A")

    return decide


CONSENTS = {
    "10.hash": ("nothing approved", nothing, JOBS, 1, "not approved"),
    "10.field": ("one field (the learning rate) changed after the approval", approving(), changed(learning_rate=5e-3), 1, "not approved"),
    "10.denied": ("denied", lambda c: c.decide(JOBS.hash, "deny", by="A"), JOBS, 1, "denied"),
    "10.paused": ("approved, then paused", then("pause"), JOBS, 1, "paused"),
    "10.withdrawn": ("approved, then withdrawn", then("withdraw"), JOBS, 1, "withdrawn"),
    "10.expired": ("approved until yesterday", approving(until="2026-11-23"), JOBS, 1, "expired"),
    "10.rounds": ("round 3, two rounds approved and used", two_rounds_begun, JOBS, 3, "rounds used up"),
    "10.clock": ("the site's clock set a day back after the approval", approving(until="2026-12-31"), JOBS, 1, "clock turned back"),
    "11.updates": ("a study that returns weights; permitted: metrics", approving(outputs=("metrics", "affinities", "statistics")), JOBS, 1, "updates not permitted"),
    "11.metrics": ("a study that returns metrics; permitted: weights", approving(outputs=("updates", "affinities", "statistics")), JOBS, 1, "metrics not permitted"),
    "11.statistics": ("a study that pools intensities; permitted: weights, metrics", approving(outputs=("updates", "metrics")), JOBS, 0, "statistics not permitted"),
    "11.rounds": ("a study of 3 rounds, 2 permitted, the third asked", two_rounds_begun, JOBS, 3, "rounds used up"),
}  # fmt: skip


@pytest.mark.parametrize("number", CONSENTS)
def test_a_job_that_is_not_allowed_opens_no_case(matrix, profile, opened, tmp_path, number):
    done, decide, jobs, round_, reason = CONSENTS[number]
    now = [NOON]
    with matrix(number, done, "refused by name, no case opened") as case:
        consent = Consent(tmp_path / "consent", clock=lambda: now[0])
        decide(consent)
        now[0] += timedelta(days=-1) if number == "10.clock" else timedelta(minutes=1)
        worker = worker_of(profile, tmp_path / "state", consent=consent)
        ask = (
            (lambda: worker.train(jobs.train(round_)))
            if round_
            else (lambda: worker.enrol(jobs.context(0)))
        )
        with pytest.raises(ConsentError) as caught:
            ask()
        case.happened = f"refused: {caught.value.reason}; {len(opened)} cases opened"
        assert caught.value.reason == reason
        assert opened == []


def test_too_few_cases_are_refused_before_training(matrix, profile, tmp_path):
    with matrix(
        "11.cases",
        "a site whose people ask for 100 training cases has fewer",
        "refused before training",
    ) as case:
        consent = Consent(tmp_path / "consent")
        consent.decide(JOBS.hash, "approve", by="A", limits=Limits(minimum_cases=100))
        worker = worker_of(profile, tmp_path / "state", consent=consent)
        with pytest.raises(ConsentError) as caught:
            worker.train(JOBS.train(1))
        begun = "round_begun" in consent.path.read_text()
        case.happened = f"refused: {caught.value.reason}; training begun: {begun}"
        assert not begun


def test_one_edited_byte_of_the_study_is_another_study(matrix, profile, opened, tmp_path):
    with matrix(
        "10.text", "the approved hash named beside another text", "refused, no case opened"
    ) as case:
        consent = Consent(tmp_path / "consent")
        consent.decide(JOBS.hash, "approve", by="A", limits=Limits(minimum_cases=1))
        worker = worker_of(profile, tmp_path / "state", consent=consent)
        other = changed(steps=4)
        assert study_hash(other.study) != JOBS.hash
        with pytest.raises(ConsentError) as caught:
            worker.enrol(Context(run="run-1", study=canonical_json(other.study), round=0))
        case.happened = f"refused: {caught.value.reason}; {len(opened)} cases opened"
        assert opened == []


# --- row 13: YAML ------------------------------------------------------------------------------

TEXT = SMALL.format(**DEFAULTS)
BOMB = "a: &a [x, x]\n" + "".join(
    f"{n}: &{n} [*{p}, *{p}, *{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "13.aliases": ("an aliases bomb", BOMB, "anchors"),
    "13.tag-object": ("a tag that makes an object", TEXT.replace("name: small", "name: !!python/object/apply:os.system ['true']"), "tag"),
    "13.tag-set": ("a tag of YAML's own", TEXT.replace("name: small", "name: !!set {a}"), "tag"),
    "13.large": ("50 MB", TEXT + "# " + "x" * 50_000_000, "larger"),
    "13.duplicate": ("a key twice", TEXT + "name: other\n", "twice"),
    "13.nan": ("a learning rate of NaN", TEXT.replace("learning_rate: 4e-3", "learning_rate: .nan"), "finite"),
    "13.infinity": ("a learning rate of infinity", TEXT.replace("learning_rate: 4e-3", "learning_rate: .inf"), "finite"),
    "13.widths": ("a network 10^9 wide", TEXT.replace("channels: [4, 8]", "channels: [1000000000, 8]"), "channels"),
    "13.levels": ("2 * 10^4 levels of a network", TEXT.replace("channels: [4, 8], strides: [2]", f"channels: [{'4,' * 2 * 10**4}8], strides: [{'2,' * 2 * 10**4}]"), ""),
    "13.deep": ("lists nested 10^4 deep", "a: " + "[" * 10**4 + "]" * 10**4, "deeper"),
    "13.patch": ("a patch of 10^6 x 10^6", TEXT.replace("patch: [32, 32]", "patch: [1048576, 1048576]"), "patch"),
    "13.steps": ("10^18 steps a round", TEXT.replace("steps: 3", f"steps: {10**18}"), "steps"),
    "13.unknown": ("a field that nobody knows", TEXT + "run_code: evil.py\n", "run_code"),
    "13.empty": ("an empty file", "", "empty"),
    "13.binary": ("bytes that are no text", b"\xff\xfe\x00", "UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("number", YAML)
def test_a_hostile_study_is_refused_with_its_place(matrix, tmp_path, number):
    done, text, word = YAML[number]
    path = tmp_path / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with matrix(
        number, f"a study file with {done}", "refused in seconds and 50 MB, place named"
    ) as case:
        began = time.monotonic()
        tracemalloc.start()
        try:
            load_study(path)
            case.happened = "accepted"
        except FedsegError as error:
            case.happened = f"refused: {str(error).splitlines()[0]}"
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        seconds = time.monotonic() - began
        case.happened = f"{seconds:.1f} s, {peak / 1e6:.0f} MB: {case.happened}"
        assert "refused" in case.happened, "accepted"
        assert word in case.happened, f"{word!r} is not named"
        assert seconds < 10
        assert peak < 50e6


# --- row 14: weights files ----------------------------------------------------------------------

FLOATS = {"w": np.ones(4, np.float32), "v": np.zeros(4, np.float32)}


def header(value, data=b"", size=None):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def slot(begin, end, shape=(4,)):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}


FILES = {
    "14.pickle": ("a pickle renamed", b"cos\nsystem\n(S'touch evil-was-here'\ntR."),
    "14.header": ("a header that says 2 GB", header({}, size=2**31)),
    "14.header-64": ("a header that says 2^64 - 1 bytes", header({}, size=2**64 - 1)),
    "14.overlap": ("two tensors in the same bytes", header({"w": slot(0, 16), "v": slot(0, 16)}, bytes(32))),
    "14.gap": ("a gap between two tensors", header({"w": slot(0, 16), "v": slot(32, 48)}, bytes(48))),
    "14.backwards": ("an end before its begin", header({"w": slot(16, 0)}, bytes(16))),
    "14.negative": ("a negative offset", header({"w": slot(-16, 0)}, bytes(16))),
    "14.negative-shape": ("a negative shape", header({"w": slot(0, 16, (-4,))}, bytes(16))),
    "14.shape": ("a shape larger than its bytes", header({"w": slot(0, 16, (10**12,))}, bytes(16))),
    "14.overflow": ("a shape whose product overflows", header({"w": slot(0, 16, (2**62, 4, 4))}, bytes(16))),
    "14.type": ("a type that nobody knows", header({"w": {**slot(0, 16), "dtype": "PICKLE"}}, bytes(16))),
    "14.json": ("a header that is no JSON", header(b"(" * 100)),
    "14.nested": ("a header nested 10^5 deep", header(b"[" * 10**5)),
    "14.empty": ("an empty file", b""),
    "14.trailing": ("a program behind the tensors", header({"w": slot(0, 16)}, bytes(16) + b"#!/bin/sh")),
}  # fmt: skip


@pytest.mark.parametrize("number", [*FILES, "14.truncated"])
def test_a_hostile_weights_file_is_refused(matrix, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.safetensors"
    if number == "14.truncated":
        write_tensors(path, FLOATS, {})
        path.write_bytes(path.read_bytes()[:-3])
    done, content = FILES.get(
        number, ("a file cut 3 bytes short", path.exists() and path.read_bytes())
    )
    path.write_bytes(content)
    with matrix(
        number, done, "refused as a file and on the wire, nothing run, under 5 MB"
    ) as case:
        told = []
        tracemalloc.start()
        for read in (
            lambda: read_tensors(path),
            lambda: tensors_in(np.frombuffer(content, np.uint8)),
        ):
            try:
                read()
                told.append("accepted")
            except IncompatibleWeightsError as error:
                told.append(f"refused: {error}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        case.happened = f"{'; '.join(told)}; {peak / 1e6:.1f} MB"
        assert "accepted" not in told
        assert not (tmp_path / "evil-was-here").exists()
        assert peak < 5e6
