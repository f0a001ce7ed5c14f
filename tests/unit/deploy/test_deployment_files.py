"""Units, compose files, images and manifests: what must hold of each, read from the files.

Where the machine has systemd-analyze or docker-compose, they look at the files too.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.supervise.permissions import numbered
from tests.support.deployment import DEPLOY, FIRST, USERS, compose, mounts_of
from tests.support.studies import ROOT

# what each process may see of its side's secrets; everything else must be out of its sight
SECRETS = {
    "hub": {
        "pki": {"registrar", "proxy"},
        "pki/superlink.key": {"superlink"},
        "secrets/executor": {"superlink", "executor"},
        "secrets/audit.key": {"registrar"},
    },
    "site": {"keys": {"node", "agent"}, "flower/executor.secret": {"node", "executor"}},
}
PUBLIC = {"pki/root.crt", "pki/superlink-chain.pem"}
CASES = {"worker"}
OCCASIONAL = {"admin", "desk"}

# --- systemd -----------------------------------------------------------------------------

UNITS = sorted((DEPLOY / "systemd").glob("*/*.service"))
LASTING = [
    unit for unit in UNITS if "permissions" not in unit.name and "refresh" not in unit.name
]
HARDENED = {
    "NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes",
    "PrivateTmp": "yes", "PrivateDevices": "yes", "ProtectProc": "invisible",
    "ProtectClock": "yes", "ProtectControlGroups": "yes", "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes", "ProtectKernelTunables": "yes",
    "LockPersonality": "yes", "RemoveIPC": "yes", "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes", "RestrictSUIDSGID": "yes", "KeyringMode": "private",
    "SystemCallArchitectures": "native", "Restart": "always",
}  # fmt: skip


def settings_of(unit):
    """Return a unit's settings; what stands several times is one text with spaces."""
    found = {}
    for line in unit.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found[match[1]] = f"{found[match[1]]} {match[2]}" if match[1] in found else match[2]
    return found


def part_of(unit):
    return unit.stem.removeprefix("fedseg-").removeprefix("site-")


def ids(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("unit", LASTING, ids=ids(LASTING))
def test_a_unit_is_closed_in(unit):
    found = settings_of(unit)

    assert {name: found.get(name) for name in HARDENED} == HARDENED
    assert found["CapabilityBoundingSet"] == (
        "CAP_NET_BIND_SERVICE" if part_of(unit) == "proxy" else ""
    )
    assert found["SystemCallFilter"].startswith("@system-service ~@privileged")
    assert found["RestrictAddressFamilies"].startswith("AF_UNIX")
    # torch writes code and runs it
    assert found["MemoryDenyWriteExecute"] == ("no" if part_of(unit) == "worker" else "yes")


@pytest.mark.parametrize("unit", LASTING, ids=ids(LASTING))
def test_a_unit_has_a_user_of_its_own(unit):
    found, side = settings_of(unit), unit.parent.name

    assert found["User"] == unit.stem
    assert found["Group"] == unit.stem
    assert part_of(unit) in USERS[side]
    prefix = "fedseg-" if side == "hub" else "fedseg-site-"
    people = numbered(side, 0)
    shared = [g for g, who in people.members.items() if part_of(unit) in who]
    expected = {f"fedseg-{side}" if g == side else prefix + g for g in shared}
    assert set(found["SupplementaryGroups"].split()) == expected


def test_every_process_has_a_unit_and_its_target_starts_it():
    for side, users in USERS.items():
        names = {part_of(unit) for unit in LASTING if unit.parent.name == side}
        assert names == set(users)
        target = settings_of(DEPLOY / "systemd" / side / f"fedseg-{side}.target")
        wanted = set(target["Wants"].split())
        assert {u.name for u in LASTING if u.parent.name == side} <= wanted


def test_what_reads_cases_and_what_sites_talk_to_have_no_network():
    for name in ("hub/fedseg-control", "site/fedseg-site-worker"):
        found = settings_of(DEPLOY / "systemd" / f"{name}.service")
        assert found["PrivateNetwork"] == "yes"
        assert found["RestrictAddressFamilies"] == "AF_UNIX"


def test_keys_are_out_of_sight_of_worker_and_messenger():
    for name in ("worker", "executor"):
        found = settings_of(DEPLOY / "systemd" / "site" / f"fedseg-site-{name}.service")
        assert found["InaccessiblePaths"] == "/var/lib/fedseg/site/keys"


def test_only_the_registrar_may_write_the_authorities():
    writers = {
        part_of(unit)
        for unit in LASTING
        if any(
            p.endswith("/hub/pki") for p in settings_of(unit).get("ReadWritePaths", "").split()
        )
    }

    assert writers == {"registrar"}


@pytest.fixture(scope="module")
def unit_root(tmp_path_factory):
    """A root folder with the units and with stand-ins for what they start."""
    root = tmp_path_factory.mktemp("root")
    system = root / "etc" / "systemd" / "system"
    system.mkdir(parents=True)
    for path in (DEPLOY / "systemd").glob("*/fedseg-*"):
        shutil.copy(path, system)
    theirs = root / "usr" / "lib" / "systemd" / "system"
    theirs.mkdir(parents=True)
    for path in (
        *Path("/lib/systemd/system").glob("*.target"),
        *Path("/lib/systemd/system").glob("tmp.mount"),
    ):
        shutil.copy(path, theirs)
    for program in (
        "opt/fedseg/bin/fedseg",
        "opt/fedseg/bin/python",
        "bin/sleep",
        "bin/systemctl",
    ):
        stand_in = root / program
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text("#!/bin/true\n")
        stand_in.chmod(0o755)
    return root


ANALYZE, COMPOSE = shutil.which("systemd-analyze"), shutil.which("docker-compose")
SYSTEMD = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


@SYSTEMD
def test_systemd_reads_the_units_without_a_complaint(unit_root):
    units = [str(path) for path in (unit_root / "etc/systemd/system").iterdir()]
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", f"--root={unit_root}",
         *(Path(unit).name for unit in units)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [line for line in (done.stdout + done.stderr).splitlines() if "fedseg" in line]

    assert told == [], done.stderr


@SYSTEMD
@pytest.mark.parametrize("unit", LASTING, ids=ids(LASTING))
def test_systemd_finds_a_unit_little_exposed(unit):
    done = subprocess.run(
        [ANALYZE, "security", "--offline=yes", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    score = float(re.findall(r"exposure level for \S+: ([0-9.]+)", done.stdout)[0])

    assert score <= 1.7


# --- compose -----------------------------------------------------------------------------


SERVICES = [(side, name) for side in USERS for name in compose(side) if name not in OCCASIONAL]


@pytest.mark.parametrize(("side", "name"), SERVICES, ids=["-".join(s) for s in SERVICES])
def test_a_service_is_closed_in_and_has_its_user(side, name):
    service, people = compose(side)[name], numbered(side, FIRST[side])

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "privileged" not in service
    user = people.users[name]
    assert service["user"] == f"{user}:{people.groups[name]}"
    assert sorted(map(int, service["group_add"])) == sorted(people.groups_of(name))
    assert Path(service["tmpfs"][0]).name == "tmp"


@pytest.mark.parametrize("side", ["hub", "site"])
def test_every_process_is_a_service_and_only_the_proxy_has_a_port(side):
    services = compose(side)

    assert set(services) - OCCASIONAL == set(USERS[side]) - {"metrics"}
    ports = {name for name, service in services.items() if "ports" in service}
    assert ports == ({"proxy"} if side == "hub" else set())


@pytest.mark.parametrize("side", ["hub", "site"])
def test_what_runs_as_root_is_not_part_of_up(side):
    for name, service in compose(side).items():
        if name in OCCASIONAL:
            assert service["profiles"] == [name]
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        if service["user"].startswith("0"):
            assert name == "admin"
            assert set(service["cap_add"]) == {"CHOWN", "FOWNER", "FSETID", "DAC_OVERRIDE"}


def secrets_in(paths, side):
    """Return which secrets are within paths that are mounted."""
    found = set()
    for path in paths:
        for secret in SECRETS[side]:
            within = path == secret or secret.startswith(f"{path}/") or not path
            beneath = path.startswith(f"{secret}/") and path not in PUBLIC
            if within or beneath:
                found.add(path if beneath and path in SECRETS[side] else secret)
    return found


@pytest.mark.parametrize(("side", "name"), SERVICES, ids=["-".join(s) for s in SERVICES])
def test_no_secret_is_mounted_where_it_does_not_belong(side, name):
    folder = f"FEDSEG_{side.upper()}:?"
    paths = {
        below for variable, below, _ in mounts_of(compose(side)[name]) if variable == folder
    }

    allowed = {s for s, who in SECRETS[side].items() if name in who}
    if "pki" in allowed:  # as a folder; the modes of the files in it are the registrar's affair
        allowed |= {"pki/superlink.key"}
    assert secrets_in(paths, side) <= allowed
    assert "" not in paths


def test_cases_are_mounted_in_the_worker_alone_and_for_reading():
    for name, service in compose("site").items():
        cases = [
            rw for variable, _, rw in mounts_of(service) if variable.startswith("FEDSEG_CASES")
        ]
        assert cases == ([False] if name in CASES else [])


def test_worker_and_control_have_no_network():
    assert compose("site")["worker"]["network_mode"] == "none"
    assert compose("hub")["control"]["network_mode"] == "none"


def test_the_registrar_alone_may_write_the_authorities_and_nobody_but_it_the_bindings():
    for name, service in compose("hub").items():
        if name in OCCASIONAL:
            continue
        writes = {below for _, below, rw in mounts_of(service) if rw}
        assert ("pki" in writes) == (name == "registrar")
        assert ("nginx" in writes) == (name in ("registrar", "proxy"))
        assert "runs" not in writes or name in ("executor", "registrar")


@pytest.mark.parametrize("side", ["hub", "site"])
def test_every_variable_is_in_the_example(side):
    folder = DEPLOY / "compose" / side
    used = set(re.findall(r"\$\{([A-Za-z_]+)", (folder / "compose.yaml").read_text()))
    given = set(
        re.findall(r"^([A-Za-z_]+)=", (folder / ".env.example").read_text(), re.MULTILINE)
    )

    assert used == given


@pytest.mark.skipif(COMPOSE is None, reason="docker-compose is not installed")
@pytest.mark.parametrize(
    ("side", "files"),
    [("hub", ["compose.yaml"]), ("site", ["compose.yaml"]),
     ("site", ["compose.yaml", "compose.gpu.yaml"])],
)  # fmt: skip
def test_docker_compose_reads_them(side, files):
    arguments = [part for file in files for part in ("-f", file)]
    done = subprocess.run(
        [COMPOSE, "--env-file", ".env.example", *arguments, "config", "-q"],
        cwd=DEPLOY / "compose" / side, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


# --- images ------------------------------------------------------------------------------


def steps_of(name):
    """Return the instructions of a Dockerfile, lines that go on joined."""
    text = (DEPLOY / "docker" / f"{name}.Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["hub", "site"])
def test_an_image_is_built_in_stages_from_a_tag_and_does_not_run_as_root(name):
    steps = steps_of(name)

    stages = [step for step in steps if step.startswith("FROM ")]
    assert stages == [
        "FROM ${PYTHON_IMAGE}${PYTHON_DIGEST} AS build", "FROM ${PYTHON_IMAGE}${PYTHON_DIGEST}",
    ]  # fmt: skip
    assert "ARG PYTHON_IMAGE=python:3.11-slim-bookworm" in steps
    last_user = [step for step in steps if step.startswith("USER ")][-1]
    assert re.fullmatch(r"USER [1-9]\d+:[1-9]\d+", last_user)
    assert not any(step.startswith("ADD ") or "curl" in step for step in steps)
    assert all(
        "--constraint constraints.txt" in step for step in steps if "pip install" in step
    )


@pytest.mark.parametrize("name", ["hub", "site"])
def test_an_image_numbers_its_users_as_the_services_do(name):
    text = "\n".join(steps_of(name))
    people = numbered(name, FIRST[name])

    first = int(re.findall(r"number=(\d{4})", text)[0])
    users = re.findall(r"for user in ([a-z ]+);", text)[0].split()
    groups = re.findall(r"for group in ([a-z ]+);", text)[0].split()
    assert first == FIRST[name]
    assert users == list(USERS[name])
    shared = list(people.members)
    assert groups == (shared if name == "hub" else shared[1:])  # the first is made by itself


@pytest.mark.parametrize("name", ["hub", "site"])
def test_only_what_an_image_needs_is_sent_to_the_builder(name):
    lines = (DEPLOY / "docker" / f"{name}.Dockerfile.dockerignore").read_text().splitlines()

    assert lines[0] == "*"
    copied = {
        part
        for step in steps_of(name)
        if step.startswith("COPY ") and "--from" not in step
        for part in step.split()[1:-1]
    }
    assert {f"!{part.split('/')[0]}" for part in copied} <= set(lines)


ONLY_THESE = """
import re, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

allowed, todo = set(), [line.strip() for line in open(sys.argv[1]) if line[0] not in "#\\n"]
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    if name in allowed:
        continue
    allowed.add(name)
    for text in requires(name) or []:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            todo.append(needed.name)
belongs = packages_distributions()
ours = {"server", "client", "common", "deploy"}

class OnlyThese:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        owners = {re.sub(r"[-_.]+", "-", o).lower() for o in belongs.get(top, [])}
        if owners and top not in ours and not owners & allowed:
            raise ModuleNotFoundError(f"{name} is not in the hub's image", name=name)

sys.meta_path.insert(0, OnlyThese())
for name in ("torch", "monai", "nibabel", "scipy", "PIL"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} can be imported: the test tests nothing")
from importlib import import_module
for name in sys.argv[2:]:
    import_module(name)
print("all", len(sys.argv) - 2)
"""
HUB_MODULES = (
    "server.app", "deploy.cli.main", "deploy.cli.hub", "deploy.cli.doctor",
    "deploy.cli.hub_backup", "deploy.cli.permissions", "deploy.cli.federation",
    "deploy.supervise.control", "deploy.supervise.registrar", "deploy.supervise.hub",
    "deploy.supervise.desk", "deploy.supervise.supervisor", "deploy.supervise.part",
    "deploy.supervise.metrics", "deploy.supervise.backup", "deploy.supervise.permissions",
    "deploy.systemd.proxy", "deploy.systemd.registrar", "deploy.doctor.hub",
    "flwr.superlink.cli", "flwr.supercore.cli",
)  # fmt: skip


def test_the_hub_runs_with_the_packages_of_its_image_alone():
    listed = DEPLOY / "docker" / "hub-requirements.txt"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ONLY_THESE, str(listed), *HUB_MODULES],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.strip() == f"all {len(HUB_MODULES)}"


def test_every_package_of_the_hubs_image_is_one_of_fedsegs_and_is_pinned():
    def canonical(text):
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ;]", text)[0]).lower()

    listed = (DEPLOY / "docker" / "hub-requirements.txt").read_text().splitlines()
    named = {canonical(line) for line in listed if line and not line.startswith("#")}
    project = (ROOT / "pyproject.toml").read_text()
    block = project[project.index("dependencies = [") : project.index("[project.optional")]
    wanted = {canonical(text) for text in re.findall(r'^  "(.+)",$', block, re.MULTILINE)}

    assert named <= wanted
    assert not named & {"torch", "monai", "nibabel", "scipy", "pillow", "tensorboardx"}
