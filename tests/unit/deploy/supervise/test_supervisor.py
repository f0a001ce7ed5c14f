"""A supervisor as a process of its own, with programs that leave others behind."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import StorageError
from deploy.supervise import supervisor
from deploy.supervise.orphans import bury, descendants
from deploy.supervise.supervisor import Supervisor
from tests.support.studies import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")

SUPERVISOR = """
import json, sys
from pathlib import Path
from deploy.supervise.program import Program
from deploy.supervise.supervisor import Supervisor

folder, code = Path(sys.argv[1]), sys.argv[2]
Supervisor([Program(name="p", command=(sys.executable, "-c", code, str(folder)), folder=folder)],
           folder / "run").run()
"""
# starts a process of a session of its own, and ends with its number in a file
LEAVES = """
import subprocess, sys, time
from pathlib import Path
left = subprocess.Popen([sys.executable, "-c", {what!r}], start_new_session=True)
(Path(sys.argv[1]) / "left").write_text(str(left.pid))
time.sleep({seconds})
"""


def state(pid):
    """Return a process's state as the kernel has it; nothing if there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def until(test, seconds=20.0):
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def supervised(tmp_path):
    started = []

    def start(code):
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), code]
        started.append(subprocess.Popen(command, cwd=ROOT))
        file = tmp_path / "left"
        until(lambda: file.exists() and file.read_text())
        return started[0], int(file.read_text())

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "what",
    [
        "import time; time.sleep(60)",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
    ],
    ids=["obedient", "deaf"],
)
def test_nothing_is_left_running_after_an_end(supervised, what):
    process, left = supervised(LEAVES.format(what=what, seconds=60))

    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 0
    assert state(left) == ""


def test_what_a_program_left_behind_is_buried_while_others_go_on(supervised, tmp_path):
    process, left = supervised(LEAVES.format(what="import time; time.sleep(2)", seconds=0))

    until(lambda: state(left) == "")

    assert process.poll() is None
    told = json.loads((tmp_path / "run" / "status.json").read_text())["programs"]["p"]
    assert told["exit_code"] in (0, None)  # its own end was heard by who waited for it


def test_a_child_that_somebody_waits_for_is_left_to_them():
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    until(lambda: state(child.pid) == "Z")

    bury({child.pid})

    assert child.wait() == 7


def test_descendants_are_found_through_their_parents():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        until(lambda: len(descendants(child.pid)) == 1)
    finally:
        child.communicate()


def test_a_status_that_cannot_be_written_ends_nothing_and_is_written_later(
    tmp_path, monkeypatch, caplog
):
    def refuse(path, value):
        raise StorageError(f"{path}: cannot be written: No space left on device")

    made = Supervisor([], tmp_path / "run")
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(supervisor, "write_json", refuse)
    made._told = False
    for _ in range(3):
        made._look()
    assert [r.message for r in caplog.records if "No space left" in r.message] != []
    assert len([r for r in caplog.records if "make room" in r.message]) == 1
    assert not made.status_file.exists()

    monkeypatch.undo()
    made._look()
    assert json.loads(made.status_file.read_text())["programs"] == {}
