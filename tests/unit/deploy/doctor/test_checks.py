"""Each check with a healthy and a broken case."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from client.profile import DatasetEntry, Profile
from common.errors import RefusedError, RunError
from deploy.doctor import machine, versions
from deploy.doctor.finding import broken, fine, has_failed, odd
from deploy.doctor.hub import nginx
from deploy.doctor.machine import Disk
from deploy.doctor.ports import PortUse, port
from deploy.doctor.processes import processes
from deploy.doctor.proxies import proxy_variables
from deploy.doctor.reach import Answer, admission, way_to_hub
from deploy.doctor.secrecy import Entry, Top, keys
from deploy.doctor.site import datasets

GIB = 2**30
HUB = Path("/srv/hub")


def test_only_a_failure_counts_as_one():
    assert not has_failed([fine("a", "b"), odd("a", "b", "c")])
    assert has_failed([fine("a", "b"), broken("a", "b", "c")])


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "fail")],
)
def test_python_is_one_of_those_that_fedseg_runs_with(version, state):
    assert versions.python(version).state == state


@pytest.mark.parametrize(
    ("version", "state"),
    [("1.41.0", "ok"), ("1.41.3", "ok"), ("1.42.0", "fail"), ("1.4.1", "fail"), (None, "fail")],
)
def test_flower_must_be_the_one_that_was_checked(version, state):
    assert versions.flower(version).state == state


def test_a_site_with_another_release_is_named():
    assert versions.fedseg("0.1.0", {"A": "0.1.0", "B": ""}).state == "ok"

    found = versions.fedseg("0.1.0", {"A": "0.1.0", "B": "0.2.0"})

    assert found.state == "warn"
    assert "B 0.2.0" in found.words


@pytest.mark.parametrize(
    ("offset", "state"),
    [
        (None, "ok"),
        (0.0, "ok"),
        (-119.0, "ok"),
        (121.0, "warn"),
        (-299.0, "warn"),
        (301.0, "fail"),
    ],
)
def test_a_clock_warns_after_two_minutes_and_fails_after_five(offset, state):
    assert machine.clock(offset, "the hub").state == state


def test_a_clock_says_in_which_direction_it_is_wrong():
    assert "behind the hub" in machine.clock(-400.0, "the hub").words
    assert "ahead of the hub" in machine.clock(400.0, "the hub").words
    assert "not compared" in machine.clock(None, "the hub").words


@pytest.mark.parametrize(
    ("free", "round_bytes", "state"),
    [
        (100 * GIB, GIB, "ok"),
        (20 * GIB - 1, GIB, "warn"),
        (GIB // 2, GIB, "fail"),
        (GIB // 2, 0, "warn"),
        (2 * GIB, 0, "ok"),
    ],
)
def test_a_disk_should_hold_twenty_rounds_of_the_largest_study(free, round_bytes, state):
    assert machine.disk(Disk(free_bytes=free, writable=True), round_bytes).state == state


def test_a_disk_that_cannot_be_written_fails_however_free_it_is():
    assert machine.disk(Disk(free_bytes=900 * GIB, writable=False), 0).state == "fail"


@pytest.mark.parametrize(("limit", "state"), [(1024, "ok"), (512, "warn"), (64, "fail")])
def test_few_open_files_are_told(limit, state):
    assert machine.open_files(limit).state == state


def test_a_socket_path_may_have_107_bytes():
    assert machine.socket_path(Path("/" + "a" * 106)).state == "ok"
    assert machine.socket_path(Path("/" + "a" * 107)).state == "fail"
    assert machine.socket_path(Path("/" + "ä" * 60)).state == "fail"


@pytest.mark.parametrize(
    ("names", "wanted", "state"),
    [
        (("H100",), "auto", "ok"),
        (("H100",), "cuda:0", "ok"),
        (("H100",), "cuda:1", "fail"),
        ((), "auto", "warn"),
        ((), "cpu", "ok"),
        ((), "cuda", "fail"),
        (None, "cpu", "fail"),
    ],
)
def test_the_profiles_device_must_be_there(names, wanted, state):
    assert machine.graphics(names, wanted).state == state


PROXY = {"https_proxy": "http://proxy:3128", "no_proxy": "127.0.0.1,localhost"}


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        (PROXY, "ok"),
        ({k.upper(): v for k, v in PROXY.items()}, "ok"),
        (PROXY | {"HTTPS_PROXY": "http://other:3128"}, "fail"),
        (PROXY | {"no_proxy": "*"}, "ok"),
        ({"https_proxy": "http://proxy:3128"}, "warn"),
        ({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "127.0.0.1,localhost"}, "warn"),
    ],
    ids=["none", "lower", "upper", "differ", "all excepted", "loopback proxied", "http only"],
)
def test_the_proxy_variables_agree_and_spare_loopback(environment, state):
    assert proxy_variables(environment).state == state


def test_a_proxys_password_is_not_shown():
    found = proxy_variables(PROXY | {"https_proxy": "http://user:secret@proxy:3128"})

    assert "secret" not in found.words
    assert "http://proxy:3128" in found.words


@pytest.mark.parametrize(
    ("use", "state"),
    [
        (PortUse(taken=False), "ok"),
        (PortUse(taken=False, may_open=False), "warn"),
        (PortUse(taken=True, holders=("nginx: master process nginx -p /srv/hub/nginx",)), "ok"),
        (PortUse(taken=True, holders=("apache2 -k start",)), "fail"),
        (PortUse(taken=True), "warn"),
    ],
    ids=["free", "not allowed", "ours", "somebody else", "unseen"],
)
def test_a_port_is_free_or_our_own(use, state):
    assert port("public port", 443, use, HUB).state == state


def test_nginx_must_be_there_with_tls_and_http2():
    built = "nginx version: nginx/1.22.1\n --with-http_ssl_module --with-http_v2_module"

    assert nginx(built).state == "ok"
    assert nginx(built).words == "nginx/1.22.1"
    assert nginx("").state == "fail"
    assert nginx(built.replace("http_v2", "")).state == "fail"


UP = {"pid": 7, "ready": True, "starts": 1, "exit_code": None}


@pytest.mark.parametrize(
    ("programs", "state"),
    [
        (None, "ok"),
        ({"worker": UP, "node": UP}, "ok"),
        ({"worker": UP, "node": UP | {"ready": False, "exit_code": 1}}, "fail"),
        ({"worker": UP, "node": UP | {"pid": 8}}, "fail"),
        ({"worker": UP | {"pid": None, "ready": False}}, "warn"),
    ],
    ids=["no supervisor", "all ready", "one not ready", "one is gone", "stopped"],
)
def test_what_is_not_ready_is_named(programs, state):
    found = processes(programs, frozenset({7}))

    assert found.state == state
    assert state != "fail" or "node" in found.words


TOP, APART = Top(uid=5, gid=50, apart=False), Top(uid=0, gid=50, apart=True)
FILE = Entry(
    path=Path("/srv/hub/pki/sites.key"), mode=stat.S_IFREG | 0o600, uid=5, gid=51, allowed=0o600
)
FOLDER = Entry(
    path=Path("/srv/hub/pki"), mode=stat.S_IFDIR | 0o700, uid=5, gid=51, allowed=0o700
)


def test_keys_of_one_user_are_closed_to_all_others():
    assert keys([FOLDER, FILE], TOP).state == "ok"


@pytest.mark.parametrize(
    "entry",
    [
        replace(FILE, mode=stat.S_IFREG | 0o640),
        replace(FILE, mode=stat.S_IFREG | 0o604),
        replace(FOLDER, mode=stat.S_IFDIR | 0o750),
        replace(FOLDER, mode=stat.S_IFDIR | 0o701),
        replace(FILE, uid=6),
        replace(FILE, mode=stat.S_IFLNK | 0o777),
    ],
    ids=["group", "others", "folder's group", "folder open", "other owner", "a link"],
)
def test_a_key_that_others_get_at_fails_with_its_path(entry):
    found = keys([entry], TOP)

    assert found.state == "fail"
    assert str(entry.path) in found.words


def test_with_users_apart_a_key_may_be_read_by_a_group_that_not_everybody_is_in():
    shared = replace(FILE, mode=stat.S_IFREG | 0o640, allowed=0o640, uid=9)

    assert keys([shared], APART).state == "ok"
    assert keys([replace(shared, gid=APART.gid)], APART).state == "fail"
    assert keys([replace(shared, allowed=0o600)], APART).state == "fail"
    assert keys([replace(shared, mode=stat.S_IFREG | 0o644)], APART).state == "fail"


def answering(outcome):
    def fetch(_address, _fingerprint):
        if outcome:
            raise outcome
        return b""

    return fetch


@pytest.mark.parametrize(
    ("address", "outcome", "state"),
    [
        ("hub.example.org:443", None, "ok"),
        ("hub.example.org", None, "fail"),
        ("hub.example.org:443", RunError("cannot be reached"), "fail"),
        ("hub.example.org:443", RefusedError("issued by 'Inspection CA'"), "fail"),
    ],
    ids=["reached", "no port", "unreachable", "somebody between"],
)
def test_the_way_to_the_hub_is_told(monkeypatch, address, outcome, state):
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)

    found = way_to_hub(address, "0" * 64, answering(outcome))

    assert found.state == state
    assert outcome is None or str(outcome) in found.words


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(offset_s=0.0), "ok"),
        (Answer(trouble="was revoked", refused=True), "fail"),
        (Answer(trouble="did not answer"), "fail"),
    ],
)
def test_the_hubs_own_answer_is_told(answer, state):
    assert admission(answer).state == state


def test_a_dataset_that_cannot_be_read_is_named():
    entries = tuple(DatasetEntry(folder=f, modality="ct") for f in ("/data/a", "/data/b"))
    profile = Profile(name="A", datasets=entries)

    assert datasets(profile, {"/data/a": True, "/data/b": True}).state == "ok"
    assert "/data/b" in datasets(profile, {"/data/a": True, "/data/b": False}).words
