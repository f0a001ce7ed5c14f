"""Rows 29 and 32: ends that are asked for, a hub restored from a backup, a site that was frozen."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from common.study.load import parse_study
from deploy.local import COORDINATOR, local_federation
from tests.faults.lab import Lab, below, kill, quiet_end
from tests.support.federations import DEFAULTS, SMALL, phantom_sites

pytestmark = pytest.mark.slow

STUDY = parse_study(
    SMALL.format(**{**DEFAULTS, "rounds": 40, "minimum": 1, "each": 0}).replace(
        "steps: 3", "steps: 40"
    )
)
SIGNALS = {"sigterm": signal.SIGTERM, "ctrl-c": signal.SIGINT, "terminal-closed": signal.SIGHUP}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("e")
    profiles = phantom_sites(folder / "data", modalities=("ct", "mr"))
    with local_federation(folder, profiles) as (federation, names):
        made = Lab(federation, STUDY, profiles, names)
        try:
            yield made
        finally:
            made._simulated.join()
            quiet_end(federation)


@pytest.mark.parametrize("who", [COORDINATOR, "ct-1"])
@pytest.mark.parametrize("name", SIGNALS)
def test_an_end_that_is_asked_for_is_clean(lab, matrix, who, name):
    whose = "hub" if who == COORDINATOR else "site"
    with matrix(
        f"32.{name}.{whose}",
        f"{name} to a {whose} in mid-round, then the same command again",
        "ends cleanly, nothing left running, the run goes on",
    ) as case:
        lab.fresh()
        number = lab.phase("ct-1", "training", step=0.2)
        process = lab.federation._services[who]
        children = below(process.pid)
        began = time.monotonic()
        kill(process.pid, SIGNALS[name])
        code = process.wait(90)
        seconds = time.monotonic() - began
        time.sleep(0.5)
        left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
        text = (lab.federation.folder / f"{who}.out").read_text(errors="replace")
        lab.restart(who)
        lab.recovered(number, 240)
        lost = lab.tell(case, number, time.monotonic() - began)
        case.happened = (
            f"ended with {code} after {seconds:.1f} s, {len(left)} of {len(children)} processes left, traceback: {'Traceback' in text}; "
            + case.happened
        )
        assert left == []
        assert code in (0, 130)
        assert len(lost) <= (1 if whose == "site" else 0)


def test_the_log_is_rotated(lab, matrix):
    with matrix(
        "32.log.hub", "the hub's log grows to 20 MB", "rotated, the hub goes on"
    ) as case:
        log = lab.federation.hub / "log" / "hub.log"
        with log.open("ab") as file:
            file.write((b"x" * 99 + b"\n") * 210_000)
        lab.fresh()
        lab.until(lambda: log.stat().st_size < 10_000_000, 60, "the log is rotated")
        kept = [p.name for p in log.parent.glob("hub.log.*")]
        case.happened = (
            f"kept: {kept}, hub ready: {lab.federation.is_ready(lab.federation.hub)}"
        )
        assert kept


def test_the_proxys_log_is_rotated(lab, matrix):
    with matrix(
        "32.log.proxy", "the proxy's access log grows to 30 MB", "rotated, the proxy goes on"
    ) as case:
        log = lab.federation.hub / "nginx" / "logs" / "access.log"
        with log.open("ab") as file:
            file.write((b"x" * 99 + b"\n") * 310_000)
        time.sleep(15)
        case.happened = f"{log.stat().st_size / 1e6:.0f} MB after 15 s"
        size = log.stat().st_size
        log.write_bytes(b"")
        assert size < 25_000_000


def test_a_site_that_stood_still_goes_on(lab, matrix):
    with matrix(
        "32.frozen",
        "all processes of a site stopped for 75 s in mid-round, then continued",
        "the round goes on or waits, the site takes part again",
    ) as case:
        lab.fresh(rounds_left=25)
        number = lab.phase("ct-1", "training", step=0.2)
        top = lab.supervisor("ct-1")
        pids = [top, *below(top)]
        began = time.monotonic()
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        time.sleep(75)
        for pid in pids:
            kill(pid, signal.SIGCONT)

        def again():
            return any("ct-1" not in lab.lost_in(c) for c in lab.closed() if c.number > number)

        lab.until(again, 240, "ct-1 takes part again")
        lost = [c.number for c in lab.closed() if "ct-1" in lab.lost_in(c)]
        case.happened = f"took part again after {time.monotonic() - began:.0f} s, attempt {lab.row.attempts}"
        case.lost = f"rounds {lost} of ct-1" if lost else "nothing"
        assert len(lost) <= 20


def test_a_hub_from_yesterdays_backup_does_not_rewind_in_silence(lab, matrix):
    with matrix(
        "29",
        "a hub stopped, its folder copied, gone on for two rounds, killed, the copy put in its place",
        "sites notice the older round and wait for a person",
    ) as case:
        lab.fresh(rounds_left=6)
        federation, backup = lab.federation, lab.federation.folder / "backup"
        lab.until(lambda: len(lab.closed()) >= 1, 120, "a round is closed")
        federation.end(COORDINATOR)
        old = len(lab.closed())
        shutil.copytree(federation.hub, backup, symlinks=True)
        federation.start_hub()
        lab.until(lambda: len(lab.closed()) >= old + 2, 180, "two more rounds are closed")
        newest = len(lab.closed())
        federation.end(COORDINATOR)
        shutil.rmtree(federation.hub)
        backup.rename(federation.hub)
        federation.start_hub()
        until = time.monotonic() + 75
        while len(lab.closed()) <= old and time.monotonic() < until:
            time.sleep(0.5)
        again = len(lab.closed()) > old
        said = lab.row.sentence
        case.happened = f"backup of round {old}, {newest} were closed; afterwards round {old + 1} was {'trained and closed again' if again else 'not trained'}; {lab.row.state}: {said or 'nothing said'}"
        case.lost = f"rounds {old + 1} to {newest} of the hub"
        assert not again, "rewound in silence"
        assert said
