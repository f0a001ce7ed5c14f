import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.audit import AuditLog, Finding, head_path, public_key_of, records_of, verify
from common.audit_chain import FIRST, hash_of, line_of
from common.errors import AuditError, RunError
from tests.support.studies import ROOT

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
PUBLIC = KEY.public_key()
START = datetime(2026, 11, 24, 10, tzinfo=UTC)


def ticking():
    times = (START + timedelta(seconds=n) for n in range(1_000_000))
    return lambda: next(times)


def written(path, events=5, *, key=KEY, signed=True):
    log = AuditLog(path, key=key, clock=ticking())
    for number in range(events):
        log.append("round", round=number, counts={"ct": [1, 2]})
    if signed:
        log.sign_head()
    return log


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def chained_anew(lines):
    """Make the hashes fit again, as a forger would."""
    before, made = FIRST, []
    for n, line in enumerate(lines, 1):
        made.append(line_of({**json.loads(line), "n": n, "before": before}))
        before = hash_of(made[-1])
    return made


def test_a_record_is_one_line_that_holds_the_hash_of_the_line_before(tmp_path):
    written(tmp_path / "a.jsonl", 2, signed=False)

    first, second = map(json.loads, lines_of(tmp_path / "a.jsonl"))
    assert first == {
        "n": 1,
        "time": "2026-11-24T10:00:00.000Z",
        "event": "round",
        "round": 0,
        "counts": {"ct": [1, 2]},
        "before": "0" * 64,
    }
    assert second["before"] == hash_of(lines_of(tmp_path / "a.jsonl")[0])


def test_a_log_in_order_has_no_findings_and_gives_its_records_back(tmp_path):
    log = written(tmp_path / "a.jsonl")
    log.append("later")

    assert verify(tmp_path / "a.jsonl", PUBLIC) == []
    assert verify(tmp_path / "a.jsonl", None, log.head()) == []
    assert [r["event"] for r in records_of(tmp_path / "a.jsonl")] == [
        *["round"] * 5,
        "head",
        "later",
    ]


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [1, float("nan")], {1: 2}, {"a": {2}}, b"x", object()],
    ids=["nan", "infinity", "nan inside", "number as key", "set", "bytes", "object"],
)
def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path, value):
    log = written(tmp_path / "a.jsonl", 1, signed=False)
    before = (tmp_path / "a.jsonl").read_bytes()

    with pytest.raises(AuditError, match="field what is not what JSON can hold"):
        log.append("event", what=value)

    assert (tmp_path / "a.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["n", "time", "before"])
def test_the_logs_own_fields_cannot_be_given(tmp_path, name):
    with pytest.raises(AuditError, match="is reserved"):
        AuditLog(tmp_path / "a.jsonl").append("x", **{name: 1})


def test_a_head_cannot_be_appended_as_if_it_were_any_event(tmp_path):
    with pytest.raises(AuditError, match="sign_head alone"):
        AuditLog(tmp_path / "a.jsonl").append("head", count=0)


def test_a_record_too_long_is_refused(tmp_path):
    with pytest.raises(AuditError, match="too long to keep"):
        AuditLog(tmp_path / "a.jsonl").append("x", text="x" * 1_000_001)


def test_a_process_without_the_key_cannot_sign(tmp_path):
    with pytest.raises(AuditError, match="no key"):
        AuditLog(tmp_path / "a.jsonl").sign_head()


def test_the_head_says_how_far_the_log_goes_and_is_kept_beside_it(tmp_path):
    log = written(tmp_path / "a.jsonl", 3)

    head = log.head()
    assert (head.count, head.hash) == (3, hash_of(lines_of(tmp_path / "a.jsonl")[2]))
    assert head.is_signed_by(PUBLIC)
    assert not head.is_signed_by(OTHER.public_key())
    assert head_path(tmp_path / "a.jsonl").read_bytes() == lines_of(tmp_path / "a.jsonl")[3]


def test_an_empty_log_can_be_signed(tmp_path):
    AuditLog(tmp_path / "a.jsonl", key=KEY).sign_head()

    assert verify(tmp_path / "a.jsonl", PUBLIC) == []


def replaced(index, old, new):
    def attack(lines):
        assert lines[index].count(old) == 1
        return [*lines[:index], lines[index].replace(old, new), *lines[index + 1 :]]

    return attack


# what is done to a log of five records and a head, and the line that is to be named first
ATTACKS = {
    "a field is edited": (replaced(2, b'"round":2', b'"round":3'), 3),
    "the last record before the head is edited": (replaced(4, b'"round":4', b'"round":5'), 5),
    "a hash is edited": (replaced(3, b'"before":"', b'"before":"0'), 4),
    "the signature is edited": (replaced(5, b'"signature":"', b'"signature":"00'), 6),
    "the head's count is edited": (replaced(5, b'"count":5', b'"count":4'), 6),
    "the keys of a record change places": (
        replaced(1, b'"event":"round","round":1', b'"round":1,"event":"round"'),
        2,
    ),
    "a space is put in": (replaced(0, b'"n":1', b'"n": 1'), 1),
    "the first record is removed": (lambda lines: lines[1:], 1),
    "a record is removed": (lambda lines: [*lines[:2], *lines[3:]], 3),
    "two records change places": (
        lambda lines: [lines[0], lines[3], lines[2], lines[1], *lines[4:]],
        2,
    ),
    "a record is repeated": (lambda lines: [*lines[:3], lines[1], *lines[3:]], 4),
    "a line that is no record is put in": (
        lambda lines: [*lines[:3], b'{"n":4}\n', *lines[3:]],
        4,
    ),
    "a forged record is put in": (
        lambda lines: [
            *lines[:2],
            line_of(
                {"n": 3, "time": "t", "event": "approve", "before": json.loads(lines[2])["before"]}
            ),
            *lines[2:],
        ],
        3,
    ),
    "a record is edited and all hashes made anew": (
        lambda lines: chained_anew(replaced(1, b'"round":1', b'"round":7')(lines)),
        6,
    ),
    "a record is removed and all hashes made anew": (
        lambda lines: chained_anew([*lines[:1], *lines[2:]]),
        5,
    ),
    "the end is cut off": (lambda lines: lines[:4], 5),
    "the head is cut off": (lambda lines: lines[:5], 6),
    "everything is cut off": (lambda lines: [], 1),
    "it is cut off within a line": (lambda lines: [*lines[:3], lines[3][:20]], 4),
    "two lines become one": (lambda lines: [lines[0][:-1] + lines[1], *lines[2:]], 1),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "line"), ATTACKS.values(), ids=ATTACKS)
def test_an_attack_is_found_where_it_was_made(tmp_path, attack, line):
    path = tmp_path / "a.jsonl"
    written(path)

    path.write_bytes(b"".join(attack(lines_of(path))))

    found = verify(path, PUBLIC)
    assert found
    assert found[0].line == line
    assert [f.line for f in found] == sorted(f.line for f in found)


def test_a_log_of_another_site_is_found(tmp_path):
    written(tmp_path / "a.jsonl", key=OTHER)

    found = verify(tmp_path / "a.jsonl", PUBLIC)

    assert Finding(line=6, what="is a head that this key did not sign") in found
    assert Finding(line=0, what="the head beside the log is not signed by this key") in found


def test_a_log_without_any_signature_is_told_where_one_is_expected(tmp_path):
    written(tmp_path / "a.jsonl", signed=False)

    assert verify(tmp_path / "a.jsonl", None) == []
    assert [f.what for f in verify(tmp_path / "a.jsonl", PUBLIC)] == [
        "nothing up to here was ever signed"
    ]


def test_only_the_other_partys_head_finds_a_log_put_back_with_its_older_head(tmp_path):
    path = tmp_path / "a.jsonl"
    log = written(path)
    older = path.read_bytes(), head_path(path).read_bytes()
    log.append("regretted")
    given = log.sign_head()

    path.write_bytes(older[0])
    head_path(path).write_bytes(older[1])

    assert verify(path, PUBLIC) == []
    assert verify(path, PUBLIC, given)[0].line == 7
    assert "the other party's head" in verify(path, PUBLIC, given)[0].what


def test_the_other_party_is_believed_only_with_the_keys_signature(tmp_path):
    log = written(tmp_path / "a.jsonl")
    forged = replace(log.head(), count=9)

    (found,) = verify(tmp_path / "a.jsonl", PUBLIC, forged)

    assert found == Finding(line=0, what="the other party's head is not signed by this key")


def test_a_head_that_is_gone_or_unreadable_is_told(tmp_path):
    path = tmp_path / "a.jsonl"
    written(path)

    head_path(path).write_text("{}")
    unreadable = verify(path, PUBLIC)
    head_path(path).unlink()

    assert [f.line for f in unreadable] == [0]
    assert "cannot be read" in unreadable[0].what
    assert "is missing" in verify(path, PUBLIC)[0].what
    assert verify(path, PUBLIC, AuditLog(path).head()) == []  # put back when it was opened


def test_a_changed_log_is_not_signed_and_not_read(tmp_path):
    path = tmp_path / "a.jsonl"
    log = written(path)
    lines = lines_of(path)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))

    with pytest.raises(AuditError, match=r"line 2: .*not signed"):
        log.sign_head()
    with pytest.raises(AuditError, match="line 2: "):
        records_of(path)


def test_a_line_that_a_crash_left_half_written_is_put_aside_and_recorded(tmp_path):
    path = tmp_path / "a.jsonl"
    written(path, 2)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n":4,"time":"2026')

    before_mending = records_of(path)
    log = AuditLog(path, key=KEY, clock=ticking())
    log.append("next")

    cut = records_of(path)[3]
    assert [r["n"] for r in before_mending] == [1, 2, 3]
    assert (cut["event"], cut["bytes"], cut["file"]) == ("cut", 19, "a.jsonl.cut-4")
    assert (tmp_path / "a.jsonl.cut-4").read_bytes() == b'{"n":4,"time":"2026'
    assert verify(path, PUBLIC) == []


def test_a_first_line_half_written_leaves_a_log_that_begins_with_that(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n":1')

    AuditLog(path)

    assert [r["event"] for r in records_of(path)] == ["cut"]


def test_a_last_line_that_is_whole_but_no_record_stops_everything(tmp_path):
    path = tmp_path / "a.jsonl"
    log = written(path, 1, signed=False)
    with path.open("ab") as file:
        file.write(b"{}\n")

    with pytest.raises(AuditError, match="its last record cannot be read"):
        log.append("x")


def test_a_long_last_line_is_found_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    log = AuditLog(path)
    for size in (10, 5_000, 100_000, 3):
        log.append("x", text="x" * size)

    assert verify(path, None) == []


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    log = written(path, 1, signed=False)
    before = path.read_bytes()

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; nothing was added"):
        log.append("x")

    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RunError, match="cannot be opened: No such file"):
        AuditLog(tmp_path / "none" / "a.jsonl")


WRITER = """
import sys
from pathlib import Path
from common.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
for number in range(50):
    log.append("from", who=sys.argv[2], number=number)
"""


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    path = tmp_path / "a.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], cwd=ROOT)
        for name in "abc"
    ]
    assert [w.wait() for w in writers] == [0, 0, 0]

    assert verify(path, None) == []
    found = [(r["who"], r["number"]) for r in records_of(path)]
    assert sorted(found) == [(who, n) for who in "abc" for n in range(50)]


def test_a_key_travels_as_hexadecimal_text():
    text = PUBLIC.public_bytes_raw().hex()

    assert re.fullmatch(r"[0-9a-f]{64}", text)
    assert public_key_of(text) == PUBLIC
    for wrong in ("", "zz" * 32, text[:-2]):
        with pytest.raises(AuditError, match="64 hexadecimal digits"):
            public_key_of(wrong)
