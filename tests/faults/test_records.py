"""Rows 27, 28, 33 and 35: cases, journals, audit logs and pages that something is wrong with."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.consent import Consent, Limits
from client.remote import RemoteWorker
from common.audit import AuditEvents, AuditLog, audit_events, head_path, records_of, verify
from common.errors import FedsegError, InputError
from common.events import HUB
from common.files import writing
from common.study.load import parse_study
from deploy.simulation.simulate import run_simulation
from deploy.supervise.decisions import fetch_run
from server.auditing import EVENTS
from server.control.results import sending
from server.journal import Damage, Journal
from server.recovery import recover
from server.report.page import render_report
from server.run import read_run, write_run
from tests.support.federations import (
    DEFAULTS,
    SMALL,
    built,
    last_weights,
    phantom_sites,
    same_bits,
    small_study,
)
from tests.support.jobs import jobs_of
from tests.support.studies import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    return phantom_sites(tmp_path_factory.mktemp("phantoms"), modalities=("ct", "mr"))


@pytest.fixture(scope="module")
def whole(profiles, tmp_path_factory):
    """A run of three rounds to its end."""
    folder = built(small_study(), profiles, tmp_path_factory.mktemp("whole") / "run")
    run_simulation(folder)
    return folder


@pytest.fixture(scope="module")
def half(profiles, tmp_path_factory):
    """The same run as it stood when one update of round 3 was accepted."""
    from client.worker import SiteWorker

    folder = built(small_study(), profiles, tmp_path_factory.mktemp("half") / "run")
    honest = SiteWorker.train

    def train(self, job):
        if job.context.round == 3 and self.profile.name == "mr-1":
            raise OSError("away")
        return honest(self, job)

    tidied = Journal.tidy

    def tidy(self, number):
        if number == 2 and not kept.exists():
            shutil.copytree(self.round_folder(2), kept)
        tidied(self, number)

    kept = folder.parent / "updates-of-round-2"
    SiteWorker.train, Journal.tidy = train, tidy
    try:
        with pytest.raises(FedsegError):
            run_simulation(folder)
    finally:
        SiteWorker.train, Journal.tidy = honest, tidied
    return folder


# --- row 27: cases -------------------------------------------------------------------------------


def test_a_case_that_cannot_be_read_is_set_aside(matrix, tmp_path):
    with matrix(
        "27.unreadable",
        "one image of a site's is rubbish",
        "set aside, the rounds go on, counted",
    ) as case:
        profiles = phantom_sites(tmp_path / "data", modalities=("ct", "mr"))
        next((tmp_path / "data").rglob("imagesTr/ct-1_*")).write_bytes(b"rubbish")
        folder = built(small_study(rounds=1), profiles, tmp_path / "run")
        run_simulation(folder)
        (closed,) = Journal(folder).closed_rounds()
        told = {a.report.site: a.report.skipped for a in closed.accepted}
        case.happened = f"round closed with {', '.join(told)}; set aside: {told}"
        case.lost = "the case"
        assert list(told) == ["ct-1", "mr-1"]
        assert sum(told["ct-1"]["ct"].values()) == 1


# put into every Python process of the site, as a library's own defect would be
CRASHING = """
import os, signal
import nibabel
honest = nibabel.load
def load(path, *arguments, **keywords):
    if os.environ["CRASHING"] in str(path):
        os.kill(os.getpid(), signal.SIGSEGV)
    return honest(path, *arguments, **keywords)
nibabel.load = load
"""


def test_a_case_that_crashes_its_reader_is_set_aside(matrix, tmp_path, monkeypatch):
    with matrix(
        "27.crash",
        "one image makes its reader crash in native code (SIGSEGV)",
        "set aside, the site's other cases are used",
    ) as case:
        (profile,) = phantom_sites(tmp_path / "data", modalities=("ct",), cases=6)
        image = next((tmp_path / "data").rglob("imagesTr/ct-1_*")).name
        jobs, site, socket = jobs_of(), tmp_path / "site", tmp_path / "w.sock"
        Consent(site / "consent").decide(
            jobs.hash, "approve", by="A", limits=Limits(minimum_cases=1)
        )
        (tmp_path / "sitecustomize.py").write_text(CRASHING)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("CRASHING", image)
        command = [
            sys.executable,
            "-m",
            "client.main_worker",
            "--profile",
            str(profile),
            "--folder",
            str(site),
            "--socket",
            str(socket),
        ]
        remote = RemoteWorker(socket, patience_seconds=30, pause_seconds=0.2)
        ends, worker = [], start(command)
        import threading

        stop = threading.Event()

        def supervise():
            nonlocal worker
            while not stop.wait(0.05):
                if worker.poll() is not None:
                    ends.append(worker.returncode)
                    worker = start(command)

        thread = threading.Thread(target=supervise)
        thread.start()
        try:
            enrolment = remote.enrol(jobs.context(0))
            account = enrolment.accounting["ct"]
            case.happened = (
                f"the worker ended {len(ends)} time, then enrolled with {account.usable} of "
                f"{account.declared} cases, set aside: {account.skipped}"
            )
            case.lost = "the case"
        except FedsegError as error:
            case.happened = f"{error}; ends of the worker: {ends[:4]}"
            case.lost = "all of the site's work"
        finally:
            stop.set()
            thread.join()
            worker.kill()
            worker.wait()
            remote.close()
        assert "then enrolled with 5 of 6" in case.happened, "the site cannot take part"


def start(command):
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )


# --- row 28: the journal --------------------------------------------------------------------------


def flip(path, share=0.9):
    data = bytearray(path.read_bytes())
    data[int(len(data) * share)] ^= 1
    path.write_bytes(data)


def flip_digit(path):
    """Flip a bit of a number, so that the JSON stays JSON."""
    text = path.read_text()
    found = re.search(r'"loss": (\d)', text)
    digit = str(int(found[1]) ^ 1)
    path.write_text(text[: found.start(1)] + digit + text[found.end(1) :])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_run(path, half):
    """Put a record in the place of another run's, whole and sealed as that run would seal it."""
    other = half.parent / "other"
    if not other.exists():
        other.mkdir()
        write_run(other, replace(read_run(half), run="20260101-000000-abcdef"))
        closed = Journal(half).closed_round(2)
        Journal(other).seal(Journal(other).round_record(2), asdict(closed))
    shutil.copy(Journal(other).round_record(2), path)


def flip_both(folder):
    """Flip a bit of what was pooled, and of what it could be pooled again from."""
    flip_pooled(folder)
    flip(folder / "journal/enrolment.json", 0.5)


def with_its_updates(folder, half):
    """Bring back round 2 as it is between its closing and its tidying, its weights damaged."""
    shutil.copytree(half.parent / "updates-of-round-2", folder / "journal/round-0002")
    flip(folder / "models/round-0002.safetensors")


# what was done, how, and the state that the run must go on from:
# "whole": as if nothing had happened; "before": round 2 is trained again; "nothing": it stops
JOURNAL = {
    "28.model-bit": ("a bit of the last weights flipped", lambda f, h: flip(f / "models/round-0002.safetensors"), "before"),
    "28.model-half": ("the last weights half written", lambda f, h: halve(f / "models/round-0002.safetensors"), "before"),
    "28.model-missing": ("the last weights missing", lambda f, h: (f / "models/round-0002.safetensors").unlink(), "before"),
    "28.model-other": ("the last weights of another run", lambda f, h: shutil.copy(f / "models/round-0001.safetensors", f / "models/round-0002.safetensors"), "before"),
    "28.model-updates": ("a bit of the last weights flipped while the updates that they are of are still there", with_its_updates, "whole"),
    "28.round-digit": ("a bit of a number in a closed round's record flipped", lambda f, h: flip_digit(f / "journal/round-0001.json"), "whole"),
    "28.round-half": ("a closed round's record half written", lambda f, h: halve(f / "journal/round-0002.json"), "before"),
    "28.round-missing": ("the first round's record missing", lambda f, h: (f / "journal/round-0001.json").unlink(), "whole"),
    "28.round-other": ("the last round's record of another run", lambda f, h: of_another_run(f / "journal/round-0002.json", h), "before"),
    "28.best-bit": ("a bit of the best weights flipped", lambda f, h: flip(f / "models/best.safetensors"), "whole"),
    "28.update-bit": ("a bit of an accepted update flipped", lambda f, h: flip(f / "journal/round-0003/ct-1.safetensors"), "whole"),
    "28.update-half": ("an accepted update half written", lambda f, h: halve(f / "journal/round-0003/ct-1.safetensors"), "whole"),
    "28.update-record": ("an accepted update's record half written", lambda f, h: halve(f / "journal/round-0003/ct-1.json"), "whole"),
    "28.update-missing": ("an accepted update's weights missing", lambda f, h: (f / "journal/round-0003/ct-1.safetensors").unlink(), "whole"),
    "28.study": ("a field of the study in run.json changed", lambda f, h: (f / "run.json").write_text((f / "run.json").read_text().replace('"steps": 3', '"steps": 4')), "nothing"),
    "28.pooled": ("a bit of a number in the pooled statistics flipped", lambda f, h: flip_pooled(f), "whole"),
    "28.pooled-both": ("a bit of the pooled statistics flipped, and one of the enrolment that they are of", lambda f, h: flip_both(f), "nothing"),
    "28.enrolment": ("a bit of the enrolment's record flipped", lambda f, h: flip(f / "journal/enrolment.json", 0.5), "whole"),
    "28.initial": ("a bit of the initial weights flipped, before round 1", lambda f, h: flip_initial(f), "nothing"),
    "28.final-half": ("the final figures half written", lambda f, h: halve(f / "journal/final.json"), "whole"),
}  # fmt: skip


def flip_pooled(folder):
    shutil.rmtree(folder / "journal/round-0003")
    path = folder / "journal/pooled.json"
    text = path.read_text()
    found = re.search(r"\[\s*-?(\d)", text)
    path.write_text(text[: found.start(1)] + str(int(found[1]) ^ 1) + text[found.end(1) :])


def flip_initial(folder):
    for name in ("journal", "models", "sites"):
        shutil.rmtree(folder / name, ignore_errors=True)
    flip(folder / "initial.safetensors")


@pytest.fixture(scope="module")
def before(half, tmp_path_factory):
    """The half run taken by hand to where round 2 was not closed yet, and from there to its end."""
    folder = shutil.copytree(half, tmp_path_factory.mktemp("before") / "run")
    shutil.rmtree(folder / "journal/round-0003")
    for name in ("journal/round-0002.json", "journal/best.json"):
        (folder / name).unlink()
    for name in ("round-0002", "best"):
        (folder / f"models/{name}.safetensors").unlink()
    run_simulation(folder)
    assert not (folder / "damaged").exists()
    return folder


SAID = ("damaged", "not what", "was changed", "cannot be read", "missing")


@pytest.mark.parametrize("number", JOURNAL)
def test_a_damaged_journal_is_found_and_the_last_good_state_used(
    matrix, half, whole, before, tmp_path, number
):
    done, damage, state = JOURNAL[number]
    expected = "found by its checksum and said; " + (
        "stops, nothing of it is used"
        if state == "nothing"
        else "goes on from the last good state"
    )
    with matrix(number, done, expected) as case:
        folder = tmp_path / "run"
        shutil.copytree(whole if number == "28.final-half" else half, folder)
        (folder / "hub.jsonl").unlink(missing_ok=True)
        damage(folder, half)
        held = bits_of(folder)
        reference = last_weights({"whole": whole, "before": before}.get(state, whole))
        try:
            run_simulation(folder)
            equal = same_bits(last_weights(folder), reference)
            case.happened = f"went on to its end; weights {'equal' if equal else 'differ'}"
        except FedsegError as error:
            equal = False
            case.happened = f"stopped: {error}"
        log = (folder / "hub.jsonl").read_text() if (folder / "hub.jsonl").exists() else ""
        told = (log + case.happened).replace(str(tmp_path), "")
        said = [word for word in SAID if word in told]
        case.happened += f"; said: {', '.join(said) or 'nothing'}"
        if number.startswith("28.update"):
            case.lost = "that update, asked again"
        if state == "before":
            case.lost = "round 2, trained again from what the sites still have"
        assert said or not case.happened.startswith("stopped")
        if state == "nothing":
            assert case.happened.startswith("stopped"), "damaged data were used"
            assert bits_of(folder) == held, "something was changed"
            return
        assert case.happened.startswith("went on"), "the last good state is not used"
        assert equal, "damaged data were used"
        assert said, "nothing is said of it"
        found = Journal(folder).read("damage", tuple[Damage, ...])
        case.happened += "".join(f"; {d.file}: {d.then}" for d in found)
        if number in ("28.round-digit", "28.round-missing"):
            case.lost = "what the record of round 1 said; the report says so"
            assert Journal(folder).closed_round(1).lost
        assert all(f'"{d.file}"' in log for d in found), "the log does not say it"
        page = html.unescape(render_report(folder, None))
        assert all(d.file in page and d.then in page for d in found), (
            "the report does not say it"
        )
        assert all((folder / "damaged").rglob(Path(d.file).name) for d in found)


def bits_of(folder):
    """Return what a run has of its own, but for what a start writes that is no state of it."""
    left_out = {"outcome.json", "hub.jsonl", ".lock", "sites.jsonl"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in left_out
    }


def test_damage_is_in_the_audit_log_of_a_hub(matrix, half, tmp_path):
    with matrix(
        "28.audit",
        "a bit of the last weights flipped at a hub with an audit log",
        "found by its checksum, in the audit log and the run's own record",
    ) as case:
        folder = shutil.copytree(half, tmp_path / "run")
        flip(folder / "models/round-0002.safetensors")
        log = tmp_path / "hub.jsonl"
        audit_events(HUB, log, EVENTS)
        try:
            recover(Journal(folder), read_run(folder))
        finally:
            for handler in [h for h in HUB.handlers if isinstance(h, AuditEvents)]:
                HUB.removeHandler(handler)
        (record,) = [r for r in records_of(log) if r["event"] == "journal_damaged"]
        case.happened = f"{record['file']}: {record['reason']}; {record['then']}"
        (damage,) = Journal(folder).read("damage", tuple[Damage, ...])
        assert (record["file"], record["then"]) == (damage.file, damage.then)
        assert verify(log, None) == []


# --- row 30: one at a time ------------------------------------------------------------------------

HOLDERS = {
    "30.run": ("a second ServerApp in one run's folder", "server.journal", "owning(Path(sys.argv[1]))"),
    "30.worker": ("a second worker of one site", "client.serving", "owning(Path(sys.argv[1]) / 'w.lock')"),
}  # fmt: skip
HOLDER = (
    "import sys; from pathlib import Path; from {} import owning; block = {}; block.__enter__()"
)


@pytest.mark.parametrize("number", HOLDERS)
def test_a_second_process_in_one_folder_is_refused(matrix, tmp_path, number):
    done, module, block = HOLDERS[number]
    with matrix(number, done, "the second is refused, the first goes on") as case:
        command = [sys.executable, "-c", HOLDER.format(module, block), str(tmp_path)]
        first = subprocess.Popen(
            [*command[:2], command[2] + "; print(1, flush=True); sys.stdin.read()", command[3]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
        )  # fmt: skip
        assert first.stdout.readline() == b"1\n"
        second = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        said = second.stderr.strip().splitlines()[-1] if second.stderr else "nothing"
        case.happened = (
            f"ended with {second.returncode}: {said.partition('Error: ')[2] or said}"
        )
        alive = first.poll() is None
        first.communicate()
        assert second.returncode != 0
        assert "another" in said
        assert alive


# --- row 33: audit logs ---------------------------------------------------------------------------

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)


def written(folder, key=KEY, site="A"):
    folder.mkdir()
    log = AuditLog(folder / "site.jsonl", key=key)
    for number in range(1, 7):
        log.append("round_trained", site=site, round=number)
        if number == 4:
            log.sign_head()
    log.sign_head()
    return folder / "site.jsonl"


def lines_changed(change):
    def act(log, other):
        lines = log.read_bytes().splitlines(keepends=True)
        log.write_bytes(b"".join(change(lines)))

    return act


def edited(lines):
    return [*lines[:2], lines[2].replace(b'"round":3', b'"round":9'), *lines[3:]]


def rehashed(lines):
    """Edit a record and make all hashes after it anew, as one who knows the format would."""
    import hashlib

    found = []
    for line in edited(lines):
        record = json.loads(line)
        if found:
            record["before"] = hashlib.sha256(found[-1]).hexdigest()
        found.append(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    return found


def swapped_files(log, other):
    one, two = log.read_bytes(), other.read_bytes()
    log.write_bytes(two)
    other.write_bytes(one)


def swapped_with_heads(log, other):
    swapped_files(log, other)
    one, two = head_path(log), head_path(other)
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)


def forged(log, other):
    fresh = log.with_name("fresh.jsonl")
    made = AuditLog(fresh, key=OTHER)
    for number in range(1, 7):
        made.append("round_trained", site="A", round=number + 1)
    made.sign_head()
    log.write_bytes(fresh.read_bytes())
    head_path(log).write_bytes(head_path(fresh).read_bytes())


AUDIT = {
    "33.edit": ("a record edited", lines_changed(edited), 3),
    "33.edit-rehashed": ("a record edited and all hashes after it made anew (found at the head that covers it)", lines_changed(rehashed), 5),
    "33.delete": ("a record deleted", lines_changed(lambda x: x[:2] + x[3:]), 3),
    "33.delete-first": ("the first record deleted", lines_changed(lambda x: x[1:]), 1),
    "33.reorder": ("two records swapped", lines_changed(lambda x: [x[0], x[2], x[1], *x[3:]]), 2),
    "33.truncate": ("the last three lines cut off", lines_changed(lambda x: x[:-3]), 6),
    "33.truncate-byte": ("cut within the last line", lines_changed(lambda x: [*x[:-1], x[-1][:-9]]), 8),
    "33.append": ("a forged record put in after the fourth", lines_changed(lambda x: [*x[:4], x[3].replace(b'"round":4', b'"round":5'), *x[4:]]), 5),
    "33.forged": ("a whole log made anew with another key", forged, None),
    "33.swap": ("two sites' files swapped", swapped_files, None),
    "33.swap-heads": ("two sites' files and heads swapped", swapped_with_heads, None),
    "33.empty": ("the log emptied", lines_changed(lambda x: []), 1),
    "33.head-removed": ("the head beside the log removed", lambda log, _: head_path(log).unlink(), 0),
}  # fmt: skip


@pytest.mark.parametrize("number", AUDIT)
def test_verify_says_where_a_log_was_changed(matrix, tmp_path, number):
    done, act, line = AUDIT[number]
    with matrix(number, done, "verify says where") as case:
        log = written(tmp_path / "a")
        other = written(tmp_path / "b", OTHER, "B")
        assert verify(log, KEY.public_key()) == []
        act(log, other)
        found = verify(log, KEY.public_key())
        case.happened = "; ".join(f"line {f.line}: {f.what}" for f in found[:3]) or "in order"
        assert found, "nothing is found"
        if line is not None:
            near = [f.line for f in found]
            assert any(abs(f - line) <= 1 for f in near), f"it was line {line}"


# --- row 35: the page and the files -----------------------------------------------------------------

SCRIPT = "<script>alert(1)</script>"


class Scripts(HTMLParser):
    """Collects what a browser would run."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        names = [f"{tag} {name}" for name, _ in attributes if name.startswith("on")]
        calls = [
            f"{tag} {n}={v}"
            for n, v in attributes
            if v and v.strip().lower().startswith("javascript:")
        ]
        self.found += names + calls + ([tag] if tag in ("script", "iframe", "object") else [])

    @classmethod
    def of(cls, text):
        parser = cls()
        parser.feed(text)
        return parser.found


@pytest.mark.parametrize("field", ["study", "label", "modality"])
def test_a_script_as_a_studys_name_is_refused(matrix, field):
    old = {"study": "name: small", "label": "[liver, spleen]", "modality": "  mr:"}[field]
    new = {
        "study": f"name: '{SCRIPT}'",
        "label": f"['{SCRIPT}', spleen]",
        "modality": f"  '{SCRIPT}':",
    }[field]
    with matrix(
        f"35.script.{field}", f"a script as the name of a {field}", "inert or refused"
    ) as case:
        with pytest.raises(FedsegError) as caught:
            parse_study(SMALL.format(**DEFAULTS).replace(old, new))
        case.happened = f"refused: {caught.value}"


def test_scripts_in_what_a_site_says_are_inert_on_the_page(matrix, whole, tmp_path):
    with matrix(
        "35.script.page",
        "scripts as reasons, refusals and metrics in a run's journal",
        "inert on the page",
    ) as case:
        folder = tmp_path / "run"
        shutil.copytree(whole, folder)
        plain = Scripts.of(render_report(folder, None))
        journal = Journal(folder)
        for path in (folder / "journal").glob("*.json"):
            told = json.loads(path.read_text())["record"]
            if "refused" in told:
                told["refused"]["mr-1" if path.name == "enrolment.json" else "zz"] = SCRIPT
            text = json.dumps(told).replace('"dice"', json.dumps(SCRIPT))
            journal.seal(path, json.loads(text.replace("did not answer", SCRIPT)))
        page = render_report(folder, None)
        case.happened = f"{len(page)} characters; what would run besides the page's own: {Scripts.of(page)[len(plain) :] or 'nothing'}; {page.count('&lt;script')} times as text"
        assert Scripts.of(page) == plain
        assert page.count("&lt;script") > 0


TRAVERSALS = [
    "../run.json",
    "journal/pooled.json",
    "/etc/passwd",
    "..%2frun.json",
    "results.json/../../run.json",
    ".",
    "",
    "results.json\x00",
]


@pytest.mark.parametrize("name", TRAVERSALS, ids=range(len(TRAVERSALS)))
def test_no_other_file_of_the_hub_can_be_fetched(matrix, whole, name):
    number = f"35.fetch.{TRAVERSALS.index(name)}"
    with matrix(number, f"a site fetches {name!r}", "refused") as case:
        with pytest.raises(InputError) as caught:
            sending(whole, "ct-1", name)
        case.happened = f"refused: {caught.value}"


def test_a_stranger_to_the_run_fetches_nothing(matrix, whole):
    with matrix(
        "35.fetch.stranger", "a site that is not in the run fetches its results", "refused"
    ) as case:
        with pytest.raises(InputError) as caught:
            sending(whole, "ct-9", "results.json")
        case.happened = f"refused: {caught.value}"


class LyingHub:
    """A hub that names a file outside."""

    def __init__(self, name):
        self._name = name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def runs(self):
        return [SimpleNamespace(run="r", files=[self._name])]

    def fetch(self, run, file, target):
        with writing(target) as out:
            out.write(b"owned")
        return 5


@pytest.mark.parametrize(
    "name", ["../owned", "/owned-by-hub", "a/b", ".."], ids=["up", "root", "below", "dots"]
)
def test_a_hub_cannot_write_outside_of_where_a_site_fetches(matrix, tmp_path, name):
    with matrix(
        f"35.hub-file.{Path(name).name.strip('.') or 'dots'}.{len(name)}",
        f"a hub names {name!r} as a run's file",
        "refused, nothing written outside",
    ) as case:
        site = SimpleNamespace(hub=lambda: LyingHub(name))
        try:
            list(fetch_run(site, "r", tmp_path / "out" / "r"))
            case.happened = "written"
        except (FedsegError, OSError) as error:
            case.happened = f"refused: {type(error).__name__}: {error}"
        outside = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert not outside
        assert not Path("/owned-by-hub").exists()
        assert case.happened.startswith("refused")
