"""A federation whose processes are killed: where they are, what they do, and what came of it."""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

import grpc

from common.errors import RunError
from common.study.study import canonical_json
from common.wire import worker_pb2
from common.wire.worker_pb2_grpc import WorkerStub
from deploy.local import COORDINATOR, LocalFederation
from server.journal import Journal
from server.registry import PAUSED, QUEUED, RUNNING
from tests.support.federations import built

CREATED, MOVED_TO, MODIFIED = 0x100, 0x80, 0x2
HUB_PROGRAMS = ("superlink", "executor", "proxy", "control", "registrar")
SITE_PROGRAMS = ("node", "executor", "worker", "agent")


def parents():
    """Return the parent of every process."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            found[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return found


def below(pid):
    """Return all descendants of a process."""
    tree, found = parents(), [pid]
    for one in found:
        found += [child for child, parent in tree.items() if parent == one]
    return found[1:]


def words(pid):
    """Return a process's command line."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def kill(pid, number=signal.SIGKILL):
    with suppress(ProcessLookupError):
        os.kill(pid, number)


@contextmanager
def watching(folder):
    """Yield a function that waits for a file whose name it likes to appear below a folder."""
    libc = ctypes.CDLL(None)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    watched = {}

    def watch(path):
        number = libc.inotify_add_watch(handle, str(path).encode(), CREATED | MOVED_TO)
        watched[number] = path

    watch(folder)
    for path in folder.rglob("*"):
        if path.is_dir():
            watch(path)

    def appears(likes, seconds):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select([handle], [], [], left)
            data = os.read(handle, 65536) if ready else b""
            while data:
                number, _, _, size = struct.unpack_from("iIII", data)
                name = data[16 : 16 + size].rstrip(b"\0").decode()
                data = data[16 + size :]
                path = watched[number] / name
                if likes(path):
                    return path
                if path.is_dir():
                    watch(path)
                    found = next((p for p in path.glob(".*") if likes(p)), None)
                    if found is not None:
                        return found
        return None

    try:
        yield appears
    finally:
        os.close(handle)


class Lab:
    """A federation, its current run and an undisturbed simulation of the same study.

    Args:
        federation: With its hub and sites running.
        study: Of all runs.
        profiles: Of the sites.
        sites: Their names.
    """

    def __init__(self, federation: LocalFederation, study, profiles, sites):
        self.federation, self.study, self.sites = federation, study, sites
        self.file = federation.folder / "study.yaml"
        self.file.write_text(canonical_json(study))
        self.reference = built(study, profiles, federation.folder / "reference" / "run")
        self.run = ""
        self._simulated = threading.Thread(target=self._simulate)
        self._simulated.start()

    def _simulate(self):
        code = "from deploy.simulation.simulate import run_simulation; from pathlib import Path; import sys; run_simulation(Path(sys.argv[1]))"
        subprocess.run(
            [sys.executable, "-c", code, str(self.reference)], check=True, capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    # --- runs --------------------------------------------------------------------------------

    @property
    def journal(self):
        return Journal(self.federation.hub / "runs" / self.run)

    @property
    def row(self):
        return self.federation.registry.run(self.run)

    def begin(self):
        """Start a run of the study that all sites have approved before it begins."""
        self.run = self.federation.start_study(self.file)
        if not (self.federation.site(self.sites[0]) / "consent/ledger.jsonl").exists():
            for site in self.sites:
                self.federation.approve(site, self.run, "--minimum-cases", "1")
            # it may have begun with the first of them
            hub = str(self.federation.hub)
            self.federation.run(COORDINATOR, "hub", "stop", self.run, "--folder", hub)
            self.run = self.federation.start_study(self.file)

    def fresh(self, rounds_left=3):
        """Go on with the run, or with a new one where sites were lost or it is near its end."""
        if self.run:
            row, closed = self.row, self.closed()
            near = len(closed) > self.study.federation.rounds - rounds_left
            if row.state in (RUNNING, QUEUED, PAUSED) and not near and self.equal(closed):
                return
            if row.state in (RUNNING, QUEUED, PAUSED):
                self.federation.run(
                    COORDINATOR, "hub", "stop", self.run, "--folder", str(self.federation.hub)
                )
        self.begin()

    def closed(self):
        return self.journal.closed_rounds() if self.run else []

    def equal(self, closed):
        """Whether all of these rounds closed with everybody and the simulation's bits."""
        if any(self.lost_in(c) for c in closed):
            return False
        self._simulated.join()
        wanted = Journal(self.reference).closed_rounds()
        return [c.digest for c in closed] == [c.digest for c in wanted[: len(closed)]]

    def lost_in(self, closed):
        return sorted(set(self.sites) - {a.report.site for a in closed.accepted})

    def until(self, test, seconds, what):
        """Wait; Python's own wait of the federation ends where one of its supervisors does."""
        end = time.monotonic() + seconds
        while not test():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:.0f} s: {what}")
            time.sleep(0.05)

    def recovered(self, number, seconds):
        """Wait until a round and the one after it are closed; return the seconds."""
        began = time.monotonic()
        last = min(number + 1, self.study.federation.rounds)
        self.until(
            lambda: (
                len(list((self.journal.folder / "journal").glob("round-[0-9]*.json"))) >= last
            ),
            seconds,
            f"rounds {number} and {last} are closed ({self.row.state}: {self.row.sentence})",
        )
        return time.monotonic() - began

    def tell(self, case, number, seconds):
        """Write down what came of a case that hit a round."""
        closed = self.closed()
        hit = next(c for c in closed if c.number == number)
        after = next((c for c in closed if c.number == number + 1), hit)
        lost = self.lost_in(hit) + self.lost_in(after)
        equal = self.equal(closed)
        twice = self.accepted_twice()
        what = f"without {', '.join(self.lost_in(hit))}" if self.lost_in(hit) else "with all"
        case.happened = (
            f"round {number} closed {what}, next round too after {seconds:.0f} s, attempt {self.row.attempts}; "
            + (
                "weights equal so far"
                if equal
                else "weights not comparable"
                if lost
                else "weights differ"
            )
        )
        if lost:
            reasons = {**hit.refused, **after.refused}
            case.lost = "; ".join(f"a round of {s} ({reasons.get(s, '')})" for s in lost)
        assert not twice, f"accepted and asked again: {twice}"
        assert equal or lost, "the end weights differ from the simulation's"
        return lost

    def accepted_twice(self):
        """Return updates of this run that were accepted more than once."""
        log = self.federation.hub / "audit" / "hub.jsonl"
        seen, twice, running = set(), [], False
        for line in log.read_text().splitlines():
            record = json.loads(line)
            if record["event"] == "run_submitted":
                running = record["run"] == self.run
            if running and record["event"] == "update_accepted":
                key = (record["round"], record["site"])
                twice += [key] if key in seen else []
                seen.add(key)
        return twice

    # --- processes ---------------------------------------------------------------------------

    def program(self, who, name):
        return self.federation.pids(who)[name]

    def supervisor(self, who):
        return self.federation._services[who].pid

    def server_app(self):
        """Return the process of the ServerApp, or None."""
        found = below(self.program(COORDINATOR, "executor"))
        return next((p for p in found if "serverapp" in words(p)), None)

    def messenger(self, site):
        """Return the newest messenger of a site, or None."""
        executor = self.program(site, "executor")
        nursery = next((p for p in below(executor) if "--nursery" in words(p)), None)
        found = below(nursery) if nursery else []
        return max(found, default=None)

    def everything(self):
        """Return every process of hub and sites."""
        tops = [p.pid for p in self.federation._services.values()]
        return list(dict.fromkeys(pid for top in tops for pid in (top, *below(top))))

    def restart(self, who):
        """Give the same command again after a supervisor was killed."""
        process = self.federation._services.pop(who)
        process.wait(30)
        if who == COORDINATOR:
            self.federation.start(
                COORDINATOR, "hub", "serve", "--folder", str(self.federation.hub)
            )
        else:
            self.federation.start(
                who, "site", "run", "--folder", str(self.federation.site(who))
            )

    # --- phases ------------------------------------------------------------------------------

    def phase(self, site, wanted, seconds=120, *, step=0.3):
        """Wait until a site's worker is in a phase; return the round.

        Args:
            site: Whose.
            wanted: ``training`` (at a share of its steps), ``receiving``, ``validating``,
                ``sending`` or ``waiting`` (idle after it had worked).
            seconds: Longest wait.
            step: Share of the steps.
        """
        until, worked = time.monotonic() + seconds, False
        address = f"unix:{self.federation.site(site) / 'run' / 'worker.sock'}"
        while time.monotonic() < until:
            with grpc.insecure_channel(address) as channel, suppress(grpc.RpcError):
                for status in WorkerStub(channel).Watch(worker_pb2.WatchRequest(), timeout=5):
                    if status.run == self.run:
                        worked = worked or status.phase == "training"
                        if _is(status, wanted, step, worked):
                            return status.round
            time.sleep(0.02)
        raise AssertionError(f"{site} was never {wanted}")


def _is(status, wanted, step, worked):
    if wanted == "waiting":
        return worked and status.phase == "idle"
    if wanted == "training":
        return status.phase == "training" and status.done >= step * status.total > 0
    return status.phase == wanted


def quiet_end(federation):
    """End everything, also what a failed test left stopped or killed."""
    for process in federation._services.values():
        for pid in (process.pid, *below(process.pid)):
            kill(pid, signal.SIGCONT)
    with suppress(RunError, KeyError):
        federation.stop()
