"""A user for each process: what each may and may not get at, tried as that user."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from common.errors import InputError, RunError, RunInUseError
from deploy.cli import permissions as commands
from deploy.provision.authority import Authorities
from deploy.supervise import permissions
from deploy.supervise.permissions import (
    HUB_MEMBERS,
    HUB_RULES,
    HUB_USERS,
    SITE_MEMBERS,
    SITE_RULES,
    SITE_USERS,
    People,
    Rule,
    give,
    give_hub,
    give_site,
    mode_for,
    named,
    numbered,
)
from server.journal import owning
from server.registry import SiteRow
from tests.support.deployment import new_hub, new_site
from tests.support.studies import ROOT

# Flower's build of a bundle; theirs to mend
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
HUB, SITE = numbered("hub", 61_000), numbered("site", 62_000)


@pytest.fixture(scope="module")
def open_folder():
    """A folder that every user may enter, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def hub(open_folder):
    made = new_hub(open_folder / "hub")
    give_hub(made, HUB)
    return made


@pytest.fixture(scope="module")
def site(open_folder, hub):
    made = new_site(open_folder / "site", Authorities.open(hub.pki))
    for name in ("consent/ledger.jsonl", "state/weights", "offers/study.json"):
        (made.path / name).touch()
    give_site(made, SITE)
    cases = open_folder / "cases"
    cases.mkdir()
    (cases / "p01_0000.nii.gz").write_text("an image")
    for path in (cases, cases / "p01_0000.nii.gz"):  # as docs/runbook-it.md says
        os.chown(path, SITE.users["worker"], SITE.groups["worker"])
        path.chmod(0o700 if path.is_dir() else 0o600)
    return made


def as_user(people, user, *command):
    """Run a command as a user with its groups and no more."""
    return subprocess.run(
        command, user=people.users[user], group=people.groups[user],
        extra_groups=people.groups_of(user), capture_output=True, check=False, cwd="/",
    )  # fmt: skip


def rights(people, user, path):
    """Return what a user may do: r, w, x or - for each."""
    marks = [mark if as_user(people, user, "test", f"-{mark}", path).returncode == 0 else "-"
             for mark in "rwx"]  # fmt: skip
    return "".join(marks)


def readers(people, users, path):
    return {u for u in users if as_user(people, u, "cat", path).returncode == 0}


# --- who reads what ----------------------------------------------------------------------

HUB_FILES = {
    "pki/root/root.key": set(),
    "pki/sites.key": {"registrar"},
    "pki/hub.key": {"registrar"},
    "pki/server.key": {"registrar", "proxy"},
    "pki/superlink.key": {"registrar", "superlink"},
    "pki/root.crt": set(HUB_USERS),
    "pki/crl.pem": set(HUB_USERS),
    "secrets/executor": {"superlink", "executor"},
    "secrets/audit.key": {"registrar"},
    "hub.json": set(HUB_USERS),
    "registry.db": {"control", "executor", "registrar", "metrics"},
    "flower/state.db": {"superlink"},
    "nginx/nginx.conf": {"registrar", "proxy"},
    "nginx/bind.map": {"registrar", "proxy"},
    "runs/20270101-kidneys/run.json": {"control", "executor", "registrar"},
    "audit/hub.jsonl": {"control", "executor", "registrar"},
}
SITE_FILES = {
    "keys/node.key": {"node"},
    "keys/tls.key": {"node", "agent"},
    "keys/audit.key": {"agent"},
    "keys/certificate.pem": set(SITE_USERS),
    "consent/ledger.jsonl": {"worker", "agent"},
    "state/weights": {"worker"},
    "offers/study.json": {"agent"},
    "flower/executor.secret": {"node", "executor"},
    "flower/bundle.sha256": set(SITE_USERS),
    "site.json": set(SITE_USERS),
}


@AS_ROOT
@pytest.mark.parametrize(("file", "who"), HUB_FILES.items(), ids=list(HUB_FILES))
def test_a_file_of_the_hub_is_read_by_those_who_need_it_alone(hub, file, who):
    expected = who - {"registrar"} if file == "pki/root/root.key" else who
    found = readers(HUB, HUB_USERS, hub.path / file)

    assert found - ({"registrar"} if file == "pki/root/root.key" else set()) == expected


@AS_ROOT
@pytest.mark.parametrize(("file", "who"), SITE_FILES.items(), ids=list(SITE_FILES))
def test_a_file_of_the_site_is_read_by_those_who_need_it_alone(site, file, who):
    assert readers(SITE, SITE_USERS, site.path / file) == who


@AS_ROOT
def test_cases_are_read_by_the_worker_alone(site, open_folder):
    assert readers(SITE, SITE_USERS, open_folder / "cases" / "p01_0000.nii.gz") == {"worker"}


@AS_ROOT
def test_a_strange_user_cannot_even_enter(hub, site):
    nobody = People(users={"nobody": 65_534}, groups={"nobody": 65_534}, members={})

    for file in ("hub.json", "pki/root.crt", "log"):
        assert rights(nobody, "nobody", hub.path / file) == "---"
    for file in ("site.json", "keys/certificate.pem"):
        assert rights(nobody, "nobody", site.path / file) == "---"


@AS_ROOT
@pytest.mark.parametrize(
    ("user", "folder", "expected"),
    [
        ("executor", ".", "r-x"),
        ("registrar", ".", "r-x"),
        ("executor", "pki", "--x"),
        ("control", "pki", "--x"),
        ("control", "runs/20270101-kidneys", "r-x"),
        ("executor", "runs/20270101-kidneys/journal", "rwx"),
        ("registrar", "runs/20270101-kidneys", "rwx"),
        ("proxy", "runs", "---"),
        ("metrics", "runs", "---"),
        ("metrics", "audit", "---"),
        ("superlink", "runs", "---"),
        ("proxy", "register", "---"),
        ("control", "register", "rwx"),
        ("proxy", "run", "r-x"),
        ("executor", "run", "---"),
        ("executor", "flower/executor", "rwx"),
        ("executor", "flower/superlink", "---"),
        ("executor", "flower", "--x"),
        ("registrar", "flower", "rwx"),
        ("registrar", "nginx/logs", "r-x"),
        ("control", "nginx/logs", "---"),
    ],
)
def test_a_folder_of_the_hub_is_open_as_far_as_it_must_be(hub, user, folder, expected):
    assert rights(HUB, user, hub.path / folder) == expected


@AS_ROOT
@pytest.mark.parametrize(
    ("user", "folder", "expected"),
    [
        ("worker", ".", "r-x"),
        ("worker", "keys", "--x"),
        ("executor", "keys", "--x"),
        ("executor", "state", "---"),
        ("executor", "consent", "---"),
        ("executor", "flower/executor", "r-x"),
        ("executor", "flower/executor/apps", "r-x"),
        ("node", "state", "---"),
        ("node", "consent", "---"),
        ("node", "run", "---"),
        ("agent", "run", "rwx"),
        ("agent", "keys", "rwx"),
        ("agent", "state", "---"),
        ("metrics", "state", "---"),
        ("metrics", "consent", "---"),
        ("metrics", "flower/executor", "---"),
    ],
)
def test_a_folder_of_the_site_is_open_as_far_as_it_must_be(site, user, folder, expected):
    assert rights(SITE, user, site.path / folder) == expected


@AS_ROOT
def test_a_log_that_the_proxy_begins_anew_is_read_by_the_registrar_alone(hub):
    log = hub.nginx / "logs" / "access.log"
    assert as_user(HUB, "proxy", "touch", log).returncode == 0

    found = readers(HUB, HUB_USERS, log)

    log.unlink()
    assert found == {"proxy", "registrar"}


@AS_ROOT
def test_a_messenger_cannot_put_a_socket_of_its_own_in_the_workers_place(site):
    socket = site.worker_socket
    socket.touch()
    os.chown(socket, SITE.users["worker"], SITE.groups["socket"])

    assert as_user(SITE, "executor", "rm", "-f", socket).returncode != 0
    assert as_user(SITE, "executor", "mv", "/etc/hostname", socket).returncode != 0
    assert socket.exists()


@AS_ROOT
def test_the_register_works_for_each_of_its_users_at_once(hub):
    hub.registry.put(SiteRow, {"name": "root"}, state="invited")
    script = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]);"
        "db.execute('PRAGMA journal_mode = WAL');"
        "db.execute(\"INSERT INTO site (name, state) VALUES (?, 'invited')\", (sys.argv[2],));"
        "db.commit()"
    )
    for user in HUB_MEMBERS["register"]:
        done = as_user(HUB, user, "/usr/bin/python3", "-c", script, hub.registry.path, user)
        if b"No such file" in done.stderr:
            pytest.skip("no Python that other users may start")
        assert done.returncode == 0, done.stderr

    names = {site.name for site in hub.registry.rows(SiteRow)}
    assert names == {"root", *HUB_MEMBERS["register"]}
    assert as_user(HUB, "proxy", "cat", hub.registry.path).returncode != 0


# --- setting them ------------------------------------------------------------------------


@AS_ROOT
def test_setting_them_again_changes_nothing(hub):
    def state():
        return {p: (p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_gid)
                for p in hub.path.rglob("*")}  # fmt: skip

    before = state()

    give_hub(hub, HUB)

    assert state() == before
    assert (hub.path / "registry.db").readlink() == Path("register/registry.db")


@AS_ROOT
def test_what_no_rule_names_is_roots_alone(hub):
    strange = hub.path / ".backup.left"
    strange.mkdir(exist_ok=True)
    (strange / "root.key").write_text("a key")
    strange.chmod(0o777)

    give_hub(hub, HUB)

    assert stat.S_IMODE(strange.stat().st_mode) == 0o700
    assert strange.stat().st_uid == 0
    assert readers(HUB, HUB_USERS, strange / "root.key") == set()


@AS_ROOT
def test_a_link_is_not_followed_and_a_second_name_is_refused(tmp_path):
    target, folder = tmp_path / "shadow", tmp_path / "folder"
    target.write_text("not yours")
    folder.mkdir()
    (folder / "link").symlink_to(target)
    rules = (Rule("*/", "executor:runs"),)

    give(folder, rules, HUB, top="hub")
    assert target.stat().st_uid == 0

    os.link(target, folder / "second")
    with pytest.raises(RunError, match="two names"):
        give(folder, rules, HUB, top="hub")
    assert target.stat().st_uid == 0


def test_without_root_a_sentence_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)

    with pytest.raises(RunError, match="only root"):
        give(tmp_path, (Rule("*/", "root:root"),), HUB, top="hub")


@AS_ROOT
def test_a_hub_under_one_supervisor_is_not_taken_apart(tmp_path):
    hub = new_hub(tmp_path / "hub")

    with owning(hub.path / "run"), pytest.raises(RunInUseError):
        give_hub(hub, HUB)

    assert not (hub.path / "registry.db").is_symlink()


@AS_ROOT
def test_an_app_that_is_there_is_not_unpacked_again_under_who_runs_it(site, monkeypatch):
    monkeypatch.setattr(permissions, "prepare_site", lambda _: pytest.fail("unpacked again"))

    give_site(site, SITE)


# --- rules and people --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "fits"),
    [
        ("pki/*.key", "pki/sites.key", True),
        ("pki/*.key", "pki/root/root.key", False),
        ("pki/*.key", "pki/root.crt", False),
        ("runs/*/", "runs/a", True),
        ("runs/*/", "runs/a/journal/b", True),
        ("runs/*/", "runs", False),
        ("run", "runs", False),
        ("*/", "anything/at/all", True),
        ("run", "run/a", False),
    ],
)
def test_a_pattern_stays_within_its_folder(path, name, fits):
    assert Rule(path, "root:root").fits(name) == fits


@pytest.mark.parametrize("rules", [HUB_RULES, SITE_RULES], ids=["hub", "site"])
def test_the_first_rule_closes_everything_and_the_last_that_fits_counts(rules):
    assert mode_for("something/new", rules, is_folder=False) == 0o600
    assert mode_for("something", rules, is_folder=True) == 0o700
    assert mode_for("pki/sites.key", HUB_RULES, is_folder=False) == 0o600


@pytest.mark.parametrize(
    ("people", "rules"), [(HUB, HUB_RULES), (SITE, SITE_RULES)], ids=["hub", "site"]
)
def test_every_owner_that_a_rule_names_is_there(people, rules):
    for rule in rules:
        user, _, group = rule.owner.partition(":")
        assert user in people.users
        assert group in people.groups


def test_numbers_are_given_in_the_order_of_the_names():
    assert [SITE.users[user] for user in SITE_USERS] == list(range(62_000, 62_005))
    assert min(SITE.groups[group] for group in SITE_MEMBERS) == 62_005
    assert SITE.groups_of("executor") == [SITE.groups[g] for g in ("site", "socket", "flower")]


def test_users_that_are_missing_are_told_with_what_makes_them(monkeypatch):
    monkeypatch.setattr(permissions.pwd, "getpwnam", {}.__getitem__)

    with pytest.raises(InputError, match="systemd-sysusers"):
        named("hub")


def test_named_users_are_those_of_the_unit_files(monkeypatch):
    asked = []
    made = type("Row", (), {"pw_uid": 7, "gr_gid": 8})
    monkeypatch.setattr(permissions.pwd, "getpwnam", lambda name: asked.append(name) or made)
    monkeypatch.setattr(permissions.grp, "getgrnam", lambda name: asked.append(name) or made)

    named("hub")
    named("site")

    for side in ("hub", "site"):
        lines = (ROOT / "deploy" / "systemd" / side / "sysusers.conf").read_text().splitlines()
        declared = [line.split()[1] for line in lines if line[:1] in ("u", "g")]
        assert set(declared) <= set(asked)
        members = {tuple(line.split()[1:]) for line in lines if line[:1] == "m"}
        prefix = "fedseg-" if side == "hub" else "fedseg-site-"
        table = HUB_MEMBERS if side == "hub" else SITE_MEMBERS
        assert members == {
            (prefix + user, f"fedseg-{side}" if group == side else prefix + group)
            for group, users in table.items()
            for user in users
        }


@AS_ROOT
def test_the_commands_set_them_by_number(tmp_path):
    app = typer.Typer()
    app.command("hub")(commands.hub_permissions)
    app.command("site")(commands.site_permissions)
    hub = new_hub(tmp_path / "hub")
    site = new_site(tmp_path / "site", Authorities.open(hub.pki))

    for side, folder in (("hub", hub.path), ("site", site.path)):
        arguments = [side, "--folder", str(folder), "--first-id", "61000"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert (hub.path / "pki" / "sites.key").stat().st_uid == HUB.users["registrar"]
    assert "only user 61000, the worker" in done.output
