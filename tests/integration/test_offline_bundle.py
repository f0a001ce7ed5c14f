"""The offline bundle installs and runs in a network namespace that has no network at all."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from common.errors import InputError, RunError
from deploy import offline
from deploy.offline import collect, requirements, sums

NAMESPACE = [shutil.which("unshare"), "-n"]
CANNOT = (
    os.geteuid() != 0
    or NAMESPACE[0] is None
    or subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode != 0
)


def cut_off(*command, **keywords):
    """Run a command where there is no network, no package index and nobody's settings of pip."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment = kept | {"PIP_CONFIG_FILE": os.devnull, "PYTHONNOUSERSITE": "1"}
    return subprocess.run(
        [*NAMESPACE, *map(str, command)], env=environment, capture_output=True, text=True,
        check=False, **keywords,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(CANNOT, reason="only root can make a network namespace")
def test_the_bundle_installs_and_runs_without_any_network(tmp_path):
    bundle, venv = tmp_path / "bundle", tmp_path / "venv"
    collect(bundle)

    reached = cut_off(
        sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 80))"
    )
    assert "Network is unreachable" in reached.stderr
    checked = cut_off("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=bundle)
    assert checked.returncode == 0, checked.stdout
    assert cut_off(sys.executable, "-m", "venv", venv).returncode == 0
    installed = cut_off(
        venv / "bin" / "python", "-m", "pip", "install", "--no-index", "--find-links", "wheels",
        "--require-hashes", "--requirement", "requirements.txt", cwd=bundle,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr[-2000:]

    helped = cut_off(venv / "bin" / "fedseg", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "hospitals" in helped.stdout
    made = cut_off(
        venv / "bin" / "fedseg", "hub", "init", "--address", "localhost:18443", "--folder",
        tmp_path / "hub", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    doctor = cut_off(
        venv / "bin" / "python", "-W", "ignore", "-m", "deploy.cli.doctor", "--json", "--folder",
        tmp_path / "hub", cwd=tmp_path,
    )  # fmt: skip
    found = {finding["what"]: finding["state"] for finding in json.loads(doctor.stdout)}
    assert {name for name, state in found.items() if state == "fail"} <= {"nginx"}
    assert found["Flower"] == "ok"


def test_a_line_of_requirements_names_package_version_and_hash(tmp_path):
    (tmp_path / "Some_Package-1.2.3-py3-none-any.whl").write_bytes(b"")

    (line,) = requirements(tmp_path.glob("*.whl"))

    assert line == (
        "some-package==1.2.3 --hash=sha256:"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
    )


def test_every_file_but_the_list_itself_is_in_the_list(tmp_path):
    for name in ("a", "b", "SHA256SUMS"):
        (tmp_path / name).write_text(name)

    assert [line.split()[1] for line in sums(tmp_path)] == ["a", "b"]


def test_a_folder_that_exists_and_a_source_that_is_none_are_refused(tmp_path):
    with pytest.raises(InputError, match="exists already"):
        collect(tmp_path)
    with pytest.raises(InputError, match="is no checkout"):
        collect(tmp_path / "bundle", tmp_path)


def test_what_pip_cannot_bring_is_told_in_its_words(tmp_path):
    (tmp_path / "constraints.txt").touch()

    with pytest.raises(RunError, match="pip wheel: "):
        collect(tmp_path / "bundle", tmp_path)


def test_the_command_wants_one_folder():
    with pytest.raises(SystemExit, match="usage"):
        offline.main([])
