"""Owners and modes of a hub's or a site's folder where each process has a user of its own.

What is not named here belongs to root alone. Where two processes share something they share a
group, and nobody else is in it. ``tests/unit/deploy/test_permissions.py`` tries, as each user,
what it must and must not get at.

The SQLite register needs a folder that its users may write, since its log comes and goes beside
it; they must not write the hub's folder itself. So the register moves into ``register/``, and a
link stays in its place.
"""

import errno
import fnmatch
import grp
import os
import pwd
import sqlite3
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError, RunError
from deploy.supervise.bundle import build_bundle
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.site import prepare_site
from deploy.supervise.site_folder import SiteFolder
from server.journal import owning

REGISTER = "register"


@dataclass(frozen=True)
class Rule:
    """Whose something is; of several rules the last that fits counts.

    Attributes:
        path: Below the folder, as a shell pattern whose ``*`` stays within a folder; with a
            slash at its end, the folder and everything in it.
        owner: ``user:group``, as :class:`People` knows them.
        folders: Mode of folders.
        files: Mode of files.
    """

    path: str
    owner: str
    folders: int = 0o700
    files: int = 0o600

    def fits(self, name: str) -> bool:
        """Say whether the rule is for a path relative to the folder."""
        pattern, parts = self.path.rstrip("/").split("/"), name.split("/")
        if len(parts) < len(pattern) or (len(parts) > len(pattern) and self.path[-1] != "/"):
            return False
        return all(map(fnmatch.fnmatchcase, parts, pattern))


@dataclass(frozen=True, kw_only=True)
class People:
    """Users and groups by the names that the rules use.

    Attributes:
        users: Numbers of users; each has a group of its own, of the same name in ``groups``.
        groups: Numbers of groups.
        members: Who is in each group that several share.
    """

    users: Mapping[str, int]
    groups: Mapping[str, int]
    members: Mapping[str, Sequence[str]]

    def groups_of(self, user: str) -> list[int]:
        """Return the numbers of the shared groups that a user is in."""
        return [self.groups[group] for group, who in self.members.items() if user in who]


HUB_USERS = ("superlink", "executor", "control", "registrar", "proxy", "metrics")
HUB_MEMBERS: Mapping[str, Sequence[str]] = {
    "hub": HUB_USERS,
    "register": ("control", "executor", "registrar", "metrics"),
    "journal": ("control", "executor", "registrar"),
    "runs": ("executor", "registrar"),
    "flower": ("superlink", "executor"),
}
HUB_RULES = (
    Rule("*/", "root:root"),
    Rule("hub.json", "root:hub", files=0o640),
    Rule("restored.json", "root:hub", files=0o640),
    Rule(f"{REGISTER}/", "root:register", 0o2770, 0o660),
    # all in pki that others need is public, but for two keys, which one process each may read
    Rule("pki/", "registrar:hub", 0o2710, 0o640),
    Rule("pki/root/", "registrar:registrar"),
    Rule("pki/*.key", "registrar:registrar"),
    Rule("pki/server.key", "registrar:proxy", files=0o640),
    Rule("pki/superlink.key", "registrar:superlink", files=0o640),
    Rule("secrets", "root:hub", 0o710),
    Rule("secrets/executor", "root:flower", files=0o640),
    Rule("secrets/audit.key", "registrar:registrar"),
    Rule("nginx", "registrar:proxy", 0o2770),
    Rule("nginx/nginx.conf", "registrar:proxy", files=0o640),
    Rule("nginx/bind.map", "registrar:proxy", files=0o640),
    Rule("nginx/nginx.pid", "proxy:proxy"),
    Rule("nginx/in-force", "proxy:proxy", files=0o644),
    # the registrar tells whose key was refused
    Rule("nginx/logs/", "proxy:registrar", 0o2750, 0o640),
    Rule("nginx/temp/", "proxy:proxy"),
    # the SuperLink's database beside the app that the registrar writes
    Rule("flower", "superlink:registrar", 0o771),
    Rule("flower/state.db*", "superlink:superlink"),
    Rule("flower/superlink/", "superlink:superlink"),
    Rule("flower/executor/", "executor:executor"),
    Rule("flower/desk/", "registrar:registrar"),
    Rule("flower/fedseg/", "registrar:registrar"),
    Rule("run", "control:proxy", 0o2750),
    # who may enter may read; the control service is not in the group that may write
    Rule("runs", "executor:journal", 0o750),
    Rule("runs/*/", "executor:runs", 0o2775, 0o664),
    Rule("log", "root:hub", 0o750),
    Rule("log/control.jsonl", "control:hub", files=0o640),
    Rule("log/registrar.jsonl", "registrar:hub", files=0o640),
    Rule("audit/", "root:journal", 0o2770, 0o660),
)
HUB_FOLDERS = (
    REGISTER, "nginx/logs", "nginx/temp", "flower/superlink", "flower/executor", "flower/desk",
)  # fmt: skip
HUB_FILES = ("log/control.jsonl", "log/registrar.jsonl", "audit/hub.jsonl")

SITE_USERS = ("worker", "node", "executor", "agent", "metrics")
SITE_MEMBERS: Mapping[str, Sequence[str]] = {
    "site": SITE_USERS,
    "keys": ("node", "agent"),
    "consent": ("worker", "agent"),
    "socket": ("worker", "executor", "agent", "metrics"),
    "flower": ("node", "executor"),
}
SITE_RULES = (
    Rule("*/", "root:root"),
    Rule("site.json", "root:site", files=0o640),
    Rule("worker.lock", "worker:worker"),
    # every process looks whether the keys are there; the certificate is no secret
    Rule("keys", "node:keys", 0o2771),
    Rule("keys/*", "node:node"),
    Rule("keys/tls.key", "node:keys", files=0o640),
    Rule("keys/tls.key.next", "agent:keys", files=0o640),
    Rule("keys/audit.key", "agent:agent"),
    Rule("keys/*.crt", "node:keys", files=0o644),
    Rule("keys/certificate.pem", "node:keys", files=0o644),
    Rule("consent/", "root:consent", 0o2770, 0o660),
    Rule("offers/", "agent:agent"),
    Rule("state/", "worker:worker"),
    Rule("answers/", "worker:worker"),
    Rule("flower", "root:site", 0o751),
    Rule("flower/bundle.sha256", "root:site", files=0o640),
    Rule("flower/executor.secret", "root:flower", files=0o640),
    Rule("flower/node/", "node:node"),
    # the app that Flower would otherwise unpack here: whom it runs as must not write it
    Rule("flower/executor/", "root:executor", 0o750, 0o640),
    # nobody but its owner may replace a socket or a status
    Rule("run", "worker:socket", 0o3770),
    Rule("run/worker.sock.lock", "worker:worker"),
    Rule("run/agent.json", "agent:socket", files=0o640),
    Rule("log", "root:site", 0o751),
    Rule("log/worker.jsonl", "worker:worker"),
    Rule("log/agent.jsonl", "agent:agent"),
    Rule("audit/", "root:consent", 0o2770, 0o660),
)
SITE_FOLDERS = ("state", "answers", "flower/node", "flower/executor")
SITE_FILES = (
    "worker.lock", "log/worker.jsonl", "log/agent.jsonl", "audit/site.jsonl",
    "consent/ledger.jsonl",
)  # fmt: skip


def named(side: str) -> People:
    """Return the users and groups of this machine, as ``deploy/systemd`` names them.

    Args:
        side: ``hub`` or ``site``.

    Raises:
        InputError: If one is missing.
    """
    users, members = _of(side)
    prefix = "fedseg-" if side == "hub" else "fedseg-site-"
    try:
        return People(
            users={"root": 0} | {user: pwd.getpwnam(prefix + user).pw_uid for user in users},
            groups={"root": 0} | {name: grp.getgrnam(_group(side, name)).gr_gid
                                  for name in (*users, *members)},
            members=members,
        )  # fmt: skip
    except KeyError as error:
        raise InputError(
            f"{error.args[0]}; make users and groups with systemd-sysusers and the file of "
            "deploy/systemd, or give --first-id for numbers alone"
        ) from error


def numbered(side: str, first: int) -> People:
    """Return users and groups as numbers from ``first`` on, in the order of their names here.

    Containers know them by number: users first, then the groups that several share.
    """
    users, members = _of(side)
    numbers = {name: first + i for i, name in enumerate((*users, *members))}
    return People(
        users={"root": 0} | {user: numbers[user] for user in users},
        groups={"root": 0} | numbers,
        members=members,
    )


def give_hub(hub: HubFolder, people: People) -> int:
    """Set owners and modes of a hub's folder; return how many files and folders there are.

    Raises:
        RunInUseError: If ``fedseg hub serve`` runs everything as one user now.
        RunError: If this process may not, or the folder holds what it should not.
    """
    with owning(hub.path / "run"):
        for name in HUB_FOLDERS:
            (hub.path / name).mkdir(parents=True, exist_ok=True)
        locks = [run / ".lock" for run in hub.runs.iterdir() if run.is_dir()]
        _make([*(hub.path / name for name in HUB_FILES), *locks])
        _move_register(hub.path)
    return give(hub.path, HUB_RULES, people, top="hub")


def give_site(site: SiteFolder, people: People) -> int:
    """Set owners and modes of a site's folder, with the app unpacked that may run there.

    Raises:
        RunInUseError: If ``fedseg site run`` runs everything as one user now.
        RunError: If this process may not, or the folder holds what it should not.
    """
    with owning(site.path / "run"):
        if not _has_app(site):
            prepare_site(site)
        for name in SITE_FOLDERS:
            (site.path / name).mkdir(parents=True, exist_ok=True)
        _make([site.path / name for name in SITE_FILES])
    return give(site.path, SITE_RULES, people, top="site")


def give(folder: Path, rules: Sequence[Rule], people: People, *, top: str) -> int:
    """Set owners and modes of everything in a folder.

    Links are neither followed nor changed, and a file with two names is refused: root must not
    be led to give away a file from elsewhere.

    Args:
        folder: Whose group becomes ``top``; root's otherwise, and closed to others.
        rules: Of several that fit, the last counts.
        people: Numbers of users and groups.
        top: A group.

    Raises:
        RunError: As said, or if this process is not root.
    """
    done = 0
    try:
        for here, folders, files, handle in os.fwalk(folder):
            for name in (*folders, *files):
                path = str((Path(here) / name).relative_to(folder))
                rule = next(rule for rule in reversed(rules) if rule.fits(path))
                done += _give(name, handle, rule, people)
        os.chown(folder, 0, people.groups[top])
        folder.chmod(0o750)
    except PermissionError as error:
        raise RunError(f"{folder}: only root can set owners; use sudo") from error
    except OSError as error:
        raise RunError(f"{folder}: {error.filename or ''} {error.strerror}") from error
    return done


def mode_for(name: str, rules: Sequence[Rule], *, is_folder: bool) -> int:
    """Return the mode that a file or folder should have, named relative to the top."""
    rule = next(rule for rule in reversed(rules) if rule.fits(name))
    return rule.folders if is_folder else rule.files


def _give(name: str, folder: int, rule: Rule, people: People) -> bool:
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOENT):  # link, socket, gone
            return False
        raise
    try:
        found = os.fstat(handle)
        is_folder = stat.S_ISDIR(found.st_mode)
        if not is_folder and (not stat.S_ISREG(found.st_mode) or found.st_nlink > 1):
            raise RunError(
                f"{name}: has two names or is no file; not touched. If a backup is being made, "
                "wait for its end"
            )
        user, _, group = rule.owner.partition(":")
        os.fchown(handle, people.users[user], people.groups[group])
        os.fchmod(handle, rule.folders if is_folder else rule.files)  # last: chown clears bits
    finally:
        os.close(handle)
    return True


def _make(files: Iterable[Path]) -> None:
    """Make empty files that several will open; none of them then makes it for itself alone."""
    for path in files:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _move_register(hub: Path) -> None:
    link, target = hub / "registry.db", hub / REGISTER / "registry.db"
    if link.exists() and not link.is_symlink():
        with closing(sqlite3.connect(link)) as db:  # takes its log in, so that it is one file
            db.execute("PRAGMA journal_mode = DELETE")
        link.rename(target)
    if not link.is_symlink():
        link.symlink_to(target.relative_to(hub))


def _has_app(site: SiteFolder) -> bool:
    """Whether the app of this fedseg is unpacked; it must not change under who runs it."""
    allowed = site.allowed_bundle
    return allowed.exists() and allowed.read_text().strip() == build_bundle().digest


def _of(side: str) -> tuple[Sequence[str], Mapping[str, Sequence[str]]]:
    return (HUB_USERS, HUB_MEMBERS) if side == "hub" else (SITE_USERS, SITE_MEMBERS)


def _group(side: str, name: str) -> str:
    if name == side:
        return f"fedseg-{side}"
    return f"fedseg-{name}" if side == "hub" else f"fedseg-site-{name}"
