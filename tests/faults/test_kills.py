"""Rows 22 and 23 and what Flower itself does: processes that are killed."""

import json
import signal
import time

import numpy as np
import pytest

from common.study.load import parse_study
from deploy.local import COORDINATOR, LocalFederation, local_federation
from server.registry import FINISHED
from tests.faults import slow
from tests.faults.lab import Lab, kill, quiet_end, watching
from tests.support.federations import DEFAULTS, SMALL, last_weights, phantom_sites, same_bits

pytestmark = pytest.mark.slow

SITES = ["ct-1", "ct-2", "mr-1"]
ROUNDS = 16
LONGEST = 240.0
SLOW_SECONDS = 0.8  # that ct-2 takes for a case that it validates, and while it sends
STUDY = parse_study(
    SMALL.format(**{**DEFAULTS, "rounds": ROUNDS, "minimum": 1, "each": 0})
    .replace("steps: 3", "steps: 60")
    .replace("channels: [4, 8]", "channels: [8, 16]")
    .replace("patch: [32, 32]", "patch: [32, 32], keep_optimizer: true")
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("k")
    profiles = phantom_sites(folder / "data", modalities=("ct", "ct", "mr"))
    for profile in profiles:
        profile.write_text(profile.read_text() + "checkpoint_seconds: 0.5\n")
    known = LocalFederation(folder)
    known.environments["ct-2"] = slow.environment(folder / "slow", SLOW_SECONDS)
    with local_federation(folder, profiles, federation=known) as (federation, names):
        made = Lab(federation, STUDY, profiles, names)
        try:
            yield made
        finally:
            made._simulated.join()
            quiet_end(federation)


EXPECTED = "the same run goes on, nothing accepted asked again, equal weights or at most one round of that site"


def hub_program(name):
    return lambda lab: kill(lab.program(COORDINATOR, name))


def site_program(name, site="ct-2"):
    return lambda lab: kill(lab.program(site, name))


def supervisor(who):
    def act(lab):
        kill(lab.supervisor(who))
        time.sleep(1)
        lab.restart(who)

    return act


def server_app(lab):
    kill(lab.server_app())


def messenger(lab, site="ct-2"):
    pid = lab.messenger(site)
    assert pid, "there is no messenger"
    kill(pid)


TRAINING = {
    "serverapp": server_app,
    "superlink": hub_program("superlink"),
    "hub-executor": hub_program("executor"),
    "proxy": hub_program("proxy"),
    "control": hub_program("control"),
    "registrar": hub_program("registrar"),
    "hub-supervisor": supervisor(COORDINATOR),
    "supernode": site_program("node"),
    "messenger": messenger,
    "site-executor": site_program("executor"),
    "worker": site_program("worker"),
    "agent": site_program("agent"),
    "site-supervisor": supervisor("ct-2"),
}
ONE_ROUND = {"supernode", "messenger", "site-executor", "site-supervisor"}
PHASES = {
    "serverapp.waiting": ("waiting", server_app),
    "serverapp.sending": ("receiving", server_app),
    "superlink.receiving": ("receiving", hub_program("superlink")),
    "worker.receiving": ("receiving", site_program("worker")),
    "worker.validating": ("validating", site_program("worker")),
    "worker.sending": ("sending", site_program("worker")),
    "messenger.sending": ("sending", messenger),
    "supernode.waiting": ("waiting", site_program("node")),
    "supernode.receiving": ("receiving", site_program("node")),
    "supernode.sending": ("sending", site_program("node")),
}


def hit(lab, case, phase, act, may_lose):
    lab.fresh()
    number = lab.phase("ct-2", phase)
    began = time.monotonic()
    act(lab)
    lab.recovered(number, LONGEST)
    lost = lab.tell(case, number, time.monotonic() - began)
    allowed = ["ct-2"] * len(lost) if may_lose else []
    assert lost == allowed, f"rounds were lost: {lost}"
    assert len(lost) <= 1, f"more than one round was lost: {lost}"


FLOWERS = {
    "messenger": ("f4.clientapp", "the round goes on with the rest after about a minute"),
    "supernode": ("f4.supernode.killed", "the round goes on with the rest within a minute"),
    "serverapp": ("f4.serverapp", "started again by itself, goes on at the same round"),
}


@pytest.mark.parametrize("name", TRAINING)
def test_a_kill_in_training(lab, matrix, name):
    done = f"SIGKILL of {name} while the sites trained"
    with matrix(f"22.{name}.training", done, EXPECTED) as case:
        try:
            hit(lab, case, "training", TRAINING[name], may_lose=name in ONE_ROUND)
        finally:
            if name in FLOWERS:
                number, expected = FLOWERS[name]
                with matrix(number, done, expected) as flowers:
                    flowers.happened, flowers.lost = case.happened, case.lost
                    assert "next round too" in case.happened, "it did not go on"


@pytest.mark.parametrize("name", PHASES)
def test_a_kill_in_another_phase(lab, matrix, name):
    phase, act = PHASES[name]
    who, _, _ = name.partition(".")
    with matrix(f"22.{name}", f"SIGKILL of {who} while a site was {phase}", EXPECTED) as case:
        hit(lab, case, phase, act, who in ONE_ROUND)


def part_of(folder, *suffixes):
    return lambda path: (
        path.name.endswith(".part")
        and str(path.parent).startswith(str(folder))
        and any(s in path.name for s in suffixes)
    )


WRITES = {
    "serverapp.journal": ("an accepted update", lambda lab: (lab.journal.folder / "journal", (".safetensors.",)), server_app),
    "serverapp.fold": ("the folded weights", lambda lab: (lab.journal.folder / "models", (".round-",)), server_app),
    "serverapp.close": ("the record that closes a round", lambda lab: (lab.journal.folder / "journal", (".round-",)), server_app),
    "worker.checkpoint": ("a checkpoint within a round", lambda lab: (lab.federation.site("ct-2") / "state", ("checkpoint",)), site_program("worker")),
    "worker.state": ("a site's state after a round", lambda lab: (lab.federation.site("ct-2") / "state", ("state-",)), site_program("worker")),
    "worker.answer": ("the answer that is kept", lambda lab: (lab.federation.site("ct-2") / "answers", ("train",)), site_program("worker")),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_a_kill_in_the_middle_of_a_write(lab, matrix, name):
    what, where, _ = WRITES[name]
    who = name.partition(".")[0]
    with matrix(f"22.{name}", f"SIGKILL of {who} while it wrote {what}", EXPECTED) as case:
        lab.fresh()
        lab.phase("ct-2", "training", step=0.05)
        victim = lab.server_app() if who == "serverapp" else lab.program("ct-2", "worker")
        folder, suffixes = where(lab)
        with watching(folder) as appears:
            path = appears(part_of(folder, *suffixes), 120)
            kill(victim)
        assert path is not None, "nothing was written in time"
        number = len(lab.closed()) + 1
        began = time.monotonic()
        time.sleep(0.05)
        left = path.exists()
        lab.recovered(number, LONGEST)
        lost = lab.tell(case, number, time.monotonic() - began)
        case.happened += (
            f"; half a file was {'left' if left else 'not left: the write was faster'}"
        )
        assert not lost


def test_a_run_that_was_hit_ends_with_the_bits_of_the_simulation(lab, matrix):
    with matrix(
        "22.end",
        "a run that was hit in several rounds, to its end",
        "finished, end weights equal to the simulation's",
    ) as case:
        lab.fresh(rounds_left=2)
        lab.phase("ct-2", "training")
        server_app(lab)
        site_program("worker")(lab)
        row = lab.federation.wait_for(lab.run, 600)
        whole = all(not lab.lost_in(c) for c in lab.closed())
        equal = same_bits(last_weights(lab.journal.folder), last_weights(lab.reference))
        case.happened = f"{row.state} after {row.round} rounds, {row.attempts} attempts; weights {'equal' if equal else 'differ'}"
        assert row.state == FINISHED
        assert whole
        assert equal


# --- Flower's own table ------------------------------------------------------------------------


def held_down(lab, seconds):
    """Kill the SuperLink and keep its supervisor from starting it again for so long."""
    top = lab.supervisor(COORDINATOR)
    kill(top, signal.SIGSTOP)
    kill(lab.program(COORDINATOR, "superlink"))
    time.sleep(seconds)
    kill(top, signal.SIGCONT)


@pytest.mark.parametrize("seconds", [25, 95])
def test_the_superlink_is_away(lab, matrix, seconds):
    with matrix(
        f"f4.superlink.{seconds}",
        f"SIGKILL of the SuperLink, {seconds} s away",
        "the same run goes on by itself, no round lost",
    ) as case:
        lab.fresh()
        number = lab.phase("ct-2", "training")
        began = time.monotonic()
        held_down(lab, seconds)
        lab.recovered(number, LONGEST)
        lost = lab.tell(case, number, time.monotonic() - began)
        assert not lost


def test_a_supernode_is_back_before_flowers_minute_is_over(lab, matrix):
    with matrix(
        "f4.supernode.back",
        "SIGKILL of an idle SuperNode, whose lease Flower keeps for a minute",
        "its next life gives the lease back, is never refused and takes part again",
    ) as case:
        lab.fresh(rounds_left=13)
        began = time.monotonic()
        kill(lab.program("ct-2", "node"))
        log = lab.federation.site("ct-2") / "log" / "site.log"
        before = log.read_text(errors="replace").count("Failed to activate")

        def takes_part():
            return any("ct-2" not in lab.lost_in(c) for c in lab.closed()[held:])

        held = len(lab.closed()) + 1
        lab.until(takes_part, 240, "ct-2 takes part again")
        refusals = log.read_text(errors="replace").count("Failed to activate") - before
        case.happened = f"took part again after {time.monotonic() - began:.0f} s, refused {refusals} times before"
        lost = [c.number for c in lab.closed() if "ct-2" in lab.lost_in(c)]
        case.lost = f"rounds {lost} of ct-2" if lost else "nothing"
        assert refusals == 0


# --- row 23 -----------------------------------------------------------------------------------

MOMENTS = [round(float(x), 1) for x in np.random.default_rng(23).uniform(0.5, 20.0, 10)]


@pytest.mark.parametrize("moment", range(10))
def test_everything_is_killed_at_once(lab, matrix, moment):
    number = f"23.{moment + 1:02d}"
    with matrix(
        number,
        f"kill -9 of every process of hub and sites, {MOMENTS[moment]} s into a run's work",
        "the same two commands, the same run goes on, equal weights",
    ) as case:
        lab.fresh()
        lab.until(lambda: lab.row.state == "running", 60, "the run is under way")
        time.sleep(MOMENTS[moment])
        hit_round = len(lab.closed()) + 1
        phases = {
            s: json.loads((lab.federation.site(s) / "run/agent.json").read_text())[
                "worker"
            ].get("phase", "")
            for s in SITES
        }
        began = time.monotonic()
        for pid in lab.everything():
            kill(pid)
        for who in (COORDINATOR, *SITES):
            lab.restart(who)
        lab.recovered(hit_round, 400)
        lost = lab.tell(case, hit_round, time.monotonic() - began)
        case.happened += f"; they were {', '.join(phases.values())}"
        assert not lost, f"rounds were lost: {lost}"
