"""Seconds a round that a real federation takes beyond training, and where they go.

The same study on phantoms runs in a simulation and then as real processes on loopback: hub,
nginx with mutual TLS, sites. For every round each site's time is divided by what its node and
its executor logged: waiting to be asked, receiving, messenger and worker beyond training,
sending; the rest is the hub's, its look for answers every half second, checking and folding.

The hub's memory and its SuperLink's database are read every second and told for the early and
the late rounds, so that growth shows.

    python tests/benchmarks/deployment_cost.py [--mb 2 120] [--sites 2 8] [--rounds 6] [--json FILE]
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from deploy.local import LocalFederation, local_federation
from deploy.simulation.simulate import run_simulation
from server.journal import Journal
from tests.support.federations import DEFAULTS, SMALL, built, phantom_sites

# channels of a 2-D U-Net with about so many MB of weights
CHANNELS = {
    2: "[32, 64, 128, 160], strides: [2, 2, 2]",
    120: "[256, 512, 1024, 1024], strides: [2, 2, 2]",
}
LINE = re.compile(
    r"^(\S+ \S+) fedseg\.(node|executor) .*?(Receiving: train|Received|Sending: train|Sent successfully)"
)


def text_of(mb: int, sites: int, rounds: int) -> str:
    """Return a study whose local training is short."""
    text = SMALL.format(**{**DEFAULTS, "rounds": rounds, "minimum": sites})
    return text.replace("[4, 8], strides: [2]", CHANNELS[mb]).replace("steps: 3", "steps: 1")


def marks_of(log: Path) -> list[dict[str, float]]:
    """Return, for each train message of a site, when its phases began, seconds since 1970."""
    rounds: list[dict[str, float]] = []
    for line in log.read_text(errors="replace").splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        moment = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()  # noqa: DTZ007
        if found[3] == "Receiving: train":
            rounds.append({found[3]: moment})
        elif rounds:
            rounds[-1].setdefault(found[3], moment)
    return [marks for marks in rounds if "Sent successfully" in marks]


def seconds_of(
    federation: LocalFederation, journal: Journal, names: list[str]
) -> dict[str, float]:
    """Return the median seconds of a round and of its parts; the slowest site's where sites differ."""
    parts: dict[str, list[float]] = {}
    logs = {name: marks_of(federation.site(name) / "log/site.log") for name in names}
    for i, closed in enumerate(journal.closed_rounds()[1:], 1):  # the first prepares cases
        last = max(closed.accepted, key=lambda a: a.seconds)
        marks = logs[last.report.site][i]
        trained = sum(last.report.seconds.values())
        receive = marks["Received"] - marks["Receiving: train"]
        messenger = marks["Sending: train"] - marks["Received"] - trained
        send = marks["Sent successfully"] - marks["Sending: train"]
        told = {
            "round": closed.seconds + closed.gap_seconds, "training": trained, "receiving": receive,
            "messenger and worker": messenger, "sending": send, "folding": closed.fold_seconds,
        }  # fmt: skip
        told["asking and looking"] = told["round"] - sum(
            v for k, v in told.items() if k != "round"
        )
        for name, value in told.items():
            parts.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in parts.items()}


def children_of(pid: int) -> list[int]:
    """Return a process's children; the hub's executor has the ServerApp alone."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


class Growth(threading.Thread):
    """Reads, once a second, what a hub holds, beside the rounds that are closed."""

    def __init__(self, federation: LocalFederation, journal: Journal) -> None:
        super().__init__(daemon=True)
        self._federation, self._journal = federation, journal
        self._over = threading.Event()
        self.seen: list[tuple[int, dict[str, float]]] = []

    def run(self) -> None:
        while not self._over.wait(1.0):
            with suppress(OSError, IndexError, KeyError):
                self.seen.append((len(self._journal.recorded()), self._held()))

    def _held(self) -> dict[str, float]:
        found = {}
        pids = self._federation.pids("coordinator")
        for pid in children_of(pids["executor"])[-1:]:
            pids["serverapp"] = pid
        for name, pid in pids.items():
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
            found[name] = int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1e3
        folder = self._federation.hub / "flower"
        found["state.db"] = sum(p.stat().st_size for p in folder.glob("state.db*")) / 1e6
        return found

    def stop(self) -> dict[str, list[float]]:
        """Return the largest MB of each, in the second and third round and in the last two."""
        self._over.set()
        self.join()
        last = max((closed for closed, _ in self.seen), default=0)
        parts = [
            [held for closed, held in self.seen if closed in wanted]
            for wanted in ((1, 2), (last - 2, last - 1))
        ]
        names = sorted(set().union(*(held for part in parts for held in part)))
        return {
            name: [max((held.get(name, 0.0) for held in part), default=0.0) for part in parts]
            for name in names
        }


def measure(mb: int, sites: int, rounds: int, folder: Path) -> dict[str, object]:
    """Run one size with so many sites both ways."""
    profiles = phantom_sites(folder / "data", modalities=("ct",) * (sites - 1) + ("mr",))
    from common.study.load import parse_study

    study = parse_study(text_of(mb, sites, rounds))
    simulated = built(study, profiles, folder / "simulated")
    run_simulation(simulated)
    base = statistics.median(
        c.seconds + c.gap_seconds for c in Journal(simulated).closed_rounds()[1:]
    )
    file = folder / "study.yaml"
    file.write_text(text_of(mb, sites, rounds))
    with local_federation(folder / "f", profiles) as (federation, names):
        run = federation.start_study(file)
        for name in names:
            federation.approve(name, run, "--minimum-cases", "1")
        journal = Journal(Path(federation.registry.run(run).folder))
        growth = Growth(federation, journal)
        growth.start()
        federation.wait_for(run, 3600)
        held = growth.stop()
        parts = seconds_of(federation, journal, names)
        last = journal.closed_rounds()[-1].accepted[0]
        return {
            "mb": mb, "sites": sites, "sent_mb": round(last.sent / 1e6, 2),
            "received_mb": round(last.received / 1e6, 2), "simulated_round": base,
            "seconds": parts, "overhead": parts["round"] - parts["training"],
            "early_and_late_mb": held,
        }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, nargs="+", default=[2, 120], choices=list(CHANNELS))
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = []
    for mb in given.mb:
        for sites in given.sites:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as held:
                told = measure(mb, sites, given.rounds, Path(held))
            found.append(told)
            parts = ", ".join(f"{k} {v:.2f}" for k, v in told["seconds"].items())
            print(f"{told['sent_mb']} MB, {sites} sites: overhead {told['overhead']:.2f} s a round "
                  f"(simulated round {told['simulated_round']:.2f} s)")  # fmt: skip
            print(f"  {parts}")
            grown = ", ".join(
                f"{k} {a:.0f} to {b:.0f}" for k, (a, b) in told["early_and_late_mb"].items()
            )
            print(f"  MB at the hub, early to late of {given.rounds} rounds: {grown}")
            print(f"  {time.monotonic() - began:.0f} s in all", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
