"""What the hub writes down of node keys that came with another site's certificate."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from common.errors import RunError
from deploy.provision.site_keys import SiteKeys
from deploy.supervise import refusals as module
from deploy.supervise.refusals import NOBODY, LogTail, Refusals
from server.registry import ADMITTED, Registry, SiteRow

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "access.log"
    path.touch()
    return path


@pytest.fixture
def told(monkeypatch):
    found = []
    monkeypatch.setattr(module, "emit", lambda _, event, **fields: found.append(fields))
    return found


@pytest.fixture
def hub(tmp_path, log, told):
    registry = Registry(tmp_path / "r.db")
    registry.create()
    headers = {}
    for name in ("A", "B"):
        keys = SiteKeys.create(tmp_path / name)
        headers[name] = keys.node_header()
        key = keys.node_public_ssh()
        registry.put(SiteRow, {"name": name}, state=ADMITTED, node_key=key)
    refusals = Refusals(log, registry, lambda: NOW)
    refusals.look()
    yield refusals, headers
    refusals.close()


def call(log, *, site="A", key="", status=401, moment=NOW, mode="a"):
    line = {
        "time": moment.isoformat(), "address": "192.0.2.1", "site": site, "status": status,
        "uri": "/v1/fleet/pull-messages", "foreign_node": key,
    }  # fmt: skip
    with log.open(mode) as file:
        file.write(json.dumps(line, separators=(",", ":")) + "\n")


def test_both_sites_are_named(hub, log, told):
    refusals, headers = hub
    call(log, key=headers["B"])

    refusals.look()

    assert told == [{"site": "A", "key_of": "B", "address": "192.0.2.1"}]


def test_the_same_pair_is_told_once_a_minute_and_another_at_once(hub, log, told, monkeypatch):
    refusals, headers = hub
    moments = iter([0.0, 30.0, 30.0, 61.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000.0 + next(moments))
    for site, owner in (("A", "B"), ("A", "B"), ("B", "A"), ("A", "B")):
        call(log, site=site, key=headers[owner])
        refusals.look()

    assert [(fields["site"], fields["key_of"]) for fields in told] == [
        ("A", "B"), ("B", "A"), ("A", "B"),
    ]  # fmt: skip


def test_a_key_that_nobody_has_is_told_as_such(hub, log, told):
    call(log, key="A" * 80)
    hub[0].look()
    assert [fields["key_of"] for fields in told] == [NOBODY]


@pytest.mark.parametrize(
    "changes",
    [{"status": 200}, {"key": ""}, {"owner": "A"}, {"moment": NOW - timedelta(hours=1)}],
    ids=["let through", "another reason", "its own key", "long ago"],
)
def test_other_calls_are_not_told(hub, log, told, changes):
    refusals, headers = hub
    owner = changes.pop("owner", "B")
    call(log, **{"key": headers[owner], **changes})

    refusals.look()

    assert told == []


def test_lines_that_are_none_are_passed_over(hub, log, told):
    refusals, headers = hub
    with log.open("a") as file:
        file.write('"foreign_node":"x\n{"foreign_node":"y"}\n{"foreign_node":"z","status":401,')
        file.write('"site":"A","time":"never"}\n')
    call(log, key=headers["B"])

    refusals.look()

    assert len(told) == 1


def test_what_came_just_before_the_start_is_told(hub, log, told, tmp_path):
    _, headers = hub
    for _ in range(2000):
        call(log, site="", moment=NOW)
    call(log, key=headers["B"], moment=NOW - timedelta(seconds=30))

    with closing(Refusals(log, Registry(tmp_path / "r.db"), lambda: NOW)) as later:
        later.look()

    assert len(told) == 1


# --- the log's end -------------------------------------------------------------------------------


@pytest.fixture
def tail(log):
    with closing(LogTail(log, 1000)) as tail:
        yield tail


def test_a_tail_follows_a_log_that_is_renamed(log, tail):
    log.write_bytes(b"one\ntw")
    assert tail.lines() == [b"one"]

    with log.open("ab") as file:
        log.rename(log.with_name("access.log.1"))
        file.write(b"o\nthree\n")
        file.flush()
        assert tail.lines() == [b"two", b"three"]
        log.write_bytes(b"four\n")
        file.write(b"late\n")
    assert tail.lines() == [b"late"]
    assert tail.lines() == [b"four"]


def test_a_tail_follows_a_log_that_is_emptied(log, tail):
    log.write_bytes(b"one\ntwo\n")
    tail.lines()

    log.write_bytes(b"3\n")

    assert tail.lines() == [b"3"]


def test_a_tail_waits_for_a_log_that_is_not_there_yet(log, tail):
    log.unlink()
    assert tail.lines() == []

    log.write_bytes(b"one\n")

    assert tail.lines() == [b"one"]


def test_a_long_log_is_read_in_pieces(log, tail, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_PIECE", 10)
    log.write_bytes(b"1234567\n" * 3)

    assert [line for _ in range(4) for line in tail.lines()] == [b"1234567"] * 3


def test_a_log_that_cannot_be_read_is_told(tmp_path):
    tail = LogTail(tmp_path, 0)
    with pytest.raises(RunError, match="cannot be read"):
        tail.lines()
