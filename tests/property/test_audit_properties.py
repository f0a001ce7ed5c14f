"""Any one change of a signed log is found, and the first finding names its line."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.audit import AuditLog, records_of, verify
from common.audit_chain import parse
from tests.support.strategies import checked

KEY = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
PUBLIC = KEY.public_key()

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A log of twelve lines; every fourth and the last is a signed head."""
    path = tmp_path_factory.mktemp("log") / "a.jsonl"
    log = AuditLog(path, key=KEY)
    for number in range(9):
        log.append("round", round=number, text="é\n\r\u2028")
        if number % 3 == 2:
            log.sign_head()
    return path


@pytest.fixture(scope="module")
def attacked(written, tmp_path_factory):
    """Verify the log after something was done to its lines."""
    copy = tmp_path_factory.mktemp("copy") / "a.jsonl"
    copy.with_name("a.jsonl.head").write_bytes(written.with_name("a.jsonl.head").read_bytes())
    lines = written.read_bytes().splitlines(keepends=True)
    assert len(lines) == 12

    def attack(change):
        copy.write_bytes(b"".join(change(list(lines))))
        return verify(copy, PUBLIC)

    return attack


@checked
@given(line=st.integers(0, 11), at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_any_edit_of_one_byte_is_found_in_its_line(attacked, line, at, byte):
    changed = []

    def change(lines):
        place = int(at * len(lines[line]))
        changed.append(lines[line][place] != byte)
        lines[line] = lines[line][:place] + bytes([byte]) + lines[line][place + 1 :]
        return lines

    found = attacked(change)

    assert bool(found) == changed[0]
    assert not found or found[0].line == line + 1


@checked
@given(line=st.integers(0, 11))
def test_any_record_removed_is_found_where_it_stood(attacked, line):
    found = attacked(lambda lines: lines[:line] + lines[line + 1 :])

    assert found[0].line == line + 1


@checked
@given(one=st.integers(0, 11), two=st.integers(0, 11))
def test_any_two_records_that_change_places_are_found(attacked, one, two):
    def swap(lines):
        lines[one], lines[two] = lines[two], lines[one]
        return lines

    found = attacked(swap)

    assert bool(found) == (one != two)
    assert not found or found[0].line == min(one, two) + 1


@checked
@given(start=st.integers(0, 11), place=st.integers(0, 12))
def test_any_record_repeated_elsewhere_is_found(attacked, start, place):
    found = attacked(lambda lines: [*lines[:place], lines[start], *lines[place:]])

    twins = {start + 1, start + 2}  # side by side nobody can tell which is the copy
    assert found[0].line in (twins if place + 1 in twins else {place + 1})


@checked
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_log_cut_anywhere_is_found_where_it_ends(attacked, cut):
    length = []

    def change(lines):
        whole = b"".join(lines)
        kept = whole[: int(cut * len(whole))]
        length.append(kept.count(b"\n") + 1)
        return [kept]

    assert attacked(change)[0].line == length[0]


@checked
@given(fields=st.dictionaries(st.from_regex(r"[a-m]{1,5}", fullmatch=True), plain, max_size=4))
def test_whatever_json_holds_comes_back_equal(tmp_path_factory, fields):
    path = tmp_path_factory.mktemp("one") / "a.jsonl"
    fields.pop("event", None)

    AuditLog(path).append("x", **fields)

    (record,) = records_of(path)
    assert {k: record[k] for k in fields} == fields
    assert verify(path, None) == []


@checked
@given(torn=st.integers(1, 200))
def test_a_crash_in_any_place_of_a_line_loses_that_line_alone(tmp_path_factory, written, torn):
    path = tmp_path_factory.mktemp("torn") / "a.jsonl"
    whole = written.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    left = whole[: last + min(torn, len(whole) - last - 1)]
    path.write_bytes(left)

    AuditLog(path)

    events = [r["event"] for r in records_of(path)]
    assert len(events) == 12
    assert events[-1] == "cut"


@checked
@given(st.binary(max_size=80))
def test_no_bytes_break_the_reader(line):
    record = parse(line + b"\n")

    assert record is None or isinstance(record["n"], int)
