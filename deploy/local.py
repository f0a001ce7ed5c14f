"""A real federation on one machine: hub, proxy and sites as separate processes.

What each person would type, in order, with what it prints. For a first look, for tests and for
benchmarks; the processes, ports, certificates and approvals are those of a real one.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from client.profile import load_profile
from common.errors import RunError
from deploy.supervise.flower import tool
from deploy.supervise.program import kill_group
from deploy.supervise.site_folder import free_port
from deploy.supervise.status import read_programs
from server.registry import ADMITTED, FAILED, FINISHED, Registry, RunRow, SiteRow

COORDINATOR = "coordinator"
START_SECONDS = 60.0
COMMAND_SECONDS = 120.0
STOP_SECONDS = 40.0
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Said:
    """One line for whoever watches: who typed or printed it."""

    who: str
    text: str
    typed: bool


@final
class LocalFederation:
    """Hub and sites below one folder.

    Args:
        folder: For everything.
        tell: Called with each command and each line that it prints.
        environment: On top of this process's own, for every process.
        host: Name or address at which sites reach the hub; it listens there too.
        prefix: Command before each of somebody's, e.g. to run it in a network namespace.
    """

    def __init__(
        self,
        folder: Path,
        tell: Callable[[Said], None] = lambda _: None,
        environment: Mapping[str, str] | None = None,
        *,
        host: str = "localhost",
        prefix: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.hub = folder / "hub"
        self._tell, self._environment = tell, dict(environment or {})
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"{host}:{free_port()}"
        self._listen = "127.0.0.1" if host == "localhost" else host
        self._prefix = dict(prefix or {})
        self.environments: dict[str, dict[str, str]] = {}

    def environment_of(self, who: str) -> Mapping[str, str]:
        """Return what is set for somebody's processes; change it before they start."""
        return {**self._environment, **self.environments.get(who, {})}

    @property
    def registry(self) -> Registry:
        """The hub's register."""
        return Registry(self.hub / "registry.db")

    def site(self, name: str) -> Path:
        """Return a site's folder."""
        return self.folder / name

    # --- hub ------------------------------------------------------------------------------

    def make_hub(self) -> None:
        """``fedseg hub init``."""
        self.run(
            COORDINATOR, "hub", "init", "--address", self.address, "--listen", self._listen,
            "--superlink-port", str(free_port()), "--metrics-port", str(free_port()),
            "--folder", str(self.hub),
        )  # fmt: skip

    def start_hub(self) -> None:
        """``fedseg hub serve``, until it is ready."""
        self.start(COORDINATOR, "hub", "serve", "--folder", str(self.hub))
        self.wait(lambda: self.is_ready(self.hub), START_SECONDS, "the hub is ready")

    def start_study(self, study: Path) -> str:
        """``fedseg hub start``; return the run's name."""
        said = self.run(COORDINATOR, "hub", "start", str(study), "--folder", str(self.hub))
        name: str = re.findall(r"run (\S+): queued", said)[0]
        return name

    # --- sites ----------------------------------------------------------------------------

    def join(self, profile: Path) -> str:
        """Invite, join, compare the codes, admit; return the site's name."""
        name = load_profile(profile).name
        hub = ("--folder", str(self.hub))
        line = self.run(COORDINATOR, "hub", "invite", name, *hub).strip().splitlines()[-1]
        joining = self.spawn(
            name, "site", "join", line, "--profile", str(profile), "--folder",
            str(self.site(name)), "--wait", "60",
        )  # fmt: skip
        try:
            self.wait(
                lambda: self.registry.site(name).code != "", START_SECONDS, f"{name} asks"
            )
            said = self.registry.site(name).code
            self.run(COORDINATOR, "hub", "admit", name, "--code", said, *hub)
            out, _ = joining.communicate(timeout=START_SECONDS)
        finally:
            joining.kill()
        for printed in out.decode().splitlines():
            self._tell(Said(name, printed, typed=False))
        if joining.returncode:
            raise RunError(f"{name}: could not join")
        return name

    def start_site(self, name: str) -> None:
        """``fedseg site run``, until the hub sees it ready."""
        self.start(name, "site", "run", "--folder", str(self.site(name)))
        began = time.time()

        def there() -> bool:
            row = self.registry.row(SiteRow, name=name, state=ADMITTED)
            return row is not None and bool(row.ready) and row.seen > began

        self.wait(there, START_SECONDS, f"{name} is ready")

    def approve(self, name: str, run: str, *options: str) -> None:
        """``fedseg site studies``, then ``approve``."""
        hash_ = self.registry.run(run).hash
        folder = ("--folder", str(self.site(name)))
        self.run(name, "site", "studies", *folder)
        self.run(name, "site", "approve", hash_[:12], *options, *folder)

    # --- runs -----------------------------------------------------------------------------

    def wait_for(self, run: str, seconds: float, states: Sequence[str] = (FINISHED,)) -> RunRow:
        """Wait until a run is in one of these states.

        Raises:
            RunError: If it failed or took too long.
        """

        def done() -> bool:
            row = self.registry.run(run)
            if row.state == FAILED and FAILED not in states:
                raise RunError(f"run {run}: failed: {row.sentence}")
            return row.state in states

        self.wait(done, seconds, f"run {run} is {' or '.join(states)}")
        return self.registry.run(run)

    def follow(self, run: str, tell: Callable[[Said], None]) -> None:
        """Wait for a run's end and tell each round that closes.

        Raises:
            RunError: If it failed, or nothing happened for ten minutes.
        """
        last = ""
        while True:
            row = self.registry.run(run)
            words = f"run {run}: {row.state}, {row.round} rounds closed {row.sentence}".rstrip()
            if words != last:
                last = words
                tell(Said("hub", words, typed=False))
            if row.state == FINISHED:
                return
            changed = (row.state, row.round, row.sentence)

            def moved(before: tuple[str, int, str] = changed) -> bool:
                now = self.registry.run(run)
                if now.state == FAILED:
                    raise RunError(f"run {run}: failed: {now.sentence}")
                return (now.state, now.round, now.sentence) != before

            self.wait(moved, 600.0, "the run goes on")

    # --- processes --------------------------------------------------------------------------

    def run(self, who: str, *arguments: str) -> str:
        """Run one command to its end; return what it printed.

        Raises:
            RunError: With what it printed, if it failed or took too long.
        """
        with self.spawn(who, *arguments) as process:
            try:
                out, _ = process.communicate(timeout=COMMAND_SECONDS)
            except subprocess.TimeoutExpired as error:
                process.kill()
                out, _ = process.communicate()
                what = f"not in {COMMAND_SECONDS:.0f} s: fedseg {' '.join(arguments[:2])}"
                raise RunError(f"{what}: {out.decode().strip()[-1500:]}") from error
        text = out.decode()
        for line in text.splitlines():
            self._tell(Said(who, line, typed=False))
        if process.returncode:
            raise RunError(f"fedseg {' '.join(arguments[:2])}: {text.strip()[-1500:]}")
        return text

    def spawn(self, who: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one command."""
        self._tell(Said(who, f"fedseg {' '.join(arguments)}", typed=True))
        return subprocess.Popen(
            [*self._prefix.get(who, ()), tool("fedseg"), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment_of(who)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def start(self, who: str, *arguments: str) -> None:
        """Start a command that goes on; its lines are in the folder's log."""
        self._tell(Said(who, f"fedseg {' '.join(arguments)} &", typed=True))
        log = (self.folder / f"{who}.out").open("ab")
        with log:
            self._services[who] = subprocess.Popen(
                [*self._prefix.get(who, ()), tool("fedseg"), *arguments],
                env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment_of(who)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, who: str, *, hard: bool = False) -> None:
        """End what ``start`` started; hard: SIGKILL to it and to all its children."""
        process = self._services.pop(who)
        if hard:
            for pid in self.pids(who).values():
                kill_group(pid)
            kill_group(process.pid)
        else:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.wait()

    def stop(self) -> None:
        """End everything, sites first."""
        for who in sorted(self._services, key=lambda name: name == COORDINATOR):
            self.end(who)

    def status(self, folder: Path) -> Mapping[str, Mapping[str, Any]]:
        """Return how the processes of a hub or site are."""
        return read_programs(folder)

    def pids(self, who: str) -> dict[str, int]:
        """Return the processes under a supervisor by name."""
        folder = self.hub if who == COORDINATOR else self.site(who)
        return {name: p["pid"] for name, p in self.status(folder).items() if p["pid"]}

    def is_ready(self, folder: Path) -> bool:
        """Whether all processes of a hub or site are ready."""
        programs = self.status(folder)
        return bool(programs) and all(program["ready"] for program in programs.values())

    def wait(self, test: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something is so.

        Raises:
            RunError: If it is not in time, or a process that was started ended.
        """
        until = time.monotonic() + seconds
        while not test():
            for who, process in self._services.items():
                if process.poll() is not None:
                    log = (self.folder / f"{who}.out").read_text(errors="replace")
                    raise RunError(f"{who}: ended while waiting until {what}:\n{log[-1500:]}")
            if time.monotonic() > until:
                raise RunError(f"not in {seconds:.0f} s: {what}")
            time.sleep(LOOK_SECONDS)


@contextmanager
def local_federation(
    folder: Path,
    profiles: Sequence[Path],
    tell: Callable[[Said], None] = lambda _: None,
    federation: LocalFederation | None = None,
) -> Iterator[tuple[LocalFederation, list[str]]]:
    """Yield a federation whose sites have joined and run; end it afterwards.

    Args:
        folder: For everything.
        profiles: Of the sites.
        tell: Called with each command and each line that it prints.
        federation: Not yet made; by default one on loopback.
    """
    federation = federation or LocalFederation(folder, tell)
    try:
        federation.make_hub()
        federation.start_hub()
        names = [federation.join(profile) for profile in profiles]
        for name in names:
            federation.start_site(name)
        yield federation, names
    finally:
        federation.stop()


def show(said: Said) -> None:
    """Print a command as its person types it, and what it printed."""
    mark = "$" if said.typed else " "
    sys.stdout.write(f"{said.who:>12} {mark} {said.text}\n")
    sys.stdout.flush()
