"""Row 24: links that are slow, lossy, cut, doubled or shuffled, in every phase of a round."""

import re
import threading
import time
from pathlib import Path

import pytest

from deploy.local import LocalFederation, local_federation
from server.journal import Journal
from tests.support.federations import DEFAULTS, SMALL, phantom_sites
from tests.support.wires import HUB, can_make_wires, wires

SITES = ["ct-1", "ct-2", "mr-1"]
SLOW = {"delay": 0.02, "rate": 2e6}  # so that receiving and sending last a few seconds
BACK_SECONDS = 150.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_make_wires(), reason="needs root, ip and tap devices"),
]


class Lab:
    """A federation whose sites are behind wires, and a run that lasts as long as it is needed."""

    def __init__(self, federation, lines, run):
        self.federation, self.lines, self.run = federation, lines, run
        self.journal = Journal(Path(federation.registry.run(run).folder))

    def log(self, site):
        """Return what a site's log says so far."""
        return (self.federation.site(site) / "log/site.log").read_text(errors="replace")

    def phase(self, site):
        """Return what a site does: waiting, receiving, training or sending."""
        marks = re.findall(
            r"(Receiving: train|Received|Sending: train|Sent) ?", self.log(site)[-20_000:]
        )
        last = marks[-1] if marks else ""
        return {"Receiving: train": "receiving", "Received": "training",
                "Sending: train": "sending", "Sent": "waiting"}.get(last, "waiting")  # fmt: skip

    def wait_for_phase(self, site, phase):
        """Wait until a site enters a phase."""
        until = time.monotonic() + 120
        while self.phase(site) == phase and time.monotonic() < until:
            time.sleep(0.01)
        while self.phase(site) != phase:
            assert time.monotonic() < until, f"{site} never was {phase}"
            time.sleep(0.01)

    def rounds_of(self, site):
        """Return the closed rounds that a site took part in."""
        return [c.number for c in self.journal.closed_rounds()
                if site in {a.report.site for a in c.accepted}]  # fmt: skip

    def closed(self):
        """Return the number of closed rounds."""
        return len(self.journal.closed_rounds())


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("n")
    profiles = phantom_sites(folder / "data", modalities=("ct", "ct", "mr"))
    text = SMALL.format(**{**DEFAULTS, "rounds": 5000, "minimum": 1, "each": 0})
    text = text.replace(
        "channels: [4, 8], strides: [2]", "channels: [32, 64, 128], strides: [2, 2]"
    )
    study = folder / "study.yaml"
    study.write_text(text.replace("steps: 3", "steps: 120"))
    with wires(SITES) as lines:
        made = LocalFederation(folder / "f", host=HUB, prefix=lines.prefix())
        with local_federation(folder / "f", profiles, federation=made) as (federation, names):
            run = federation.start_study(study)
            for name in names:
                federation.approve(name, run, "--minimum-cases", "1")
            lab = Lab(federation, lines, run)
            federation.wait(lambda: lab.closed() >= 1, 180, "the first round is closed")
            for name in SITES:
                lines.behave(name, **SLOW)
            yield lab


def cut(lab, site, phase, seconds, found):
    """Pull a site's wire in a phase; note what came of it."""
    lab.wait_for_phase(site, phase)
    round_ = lab.closed() + 1
    lab.lines.cut_for(site, seconds, **SLOW)
    mended, closed = time.monotonic(), lab.closed()
    had = max(lab.rounds_of(site), default=0)
    while max(lab.rounds_of(site), default=0) <= max(had, round_ - 1):
        assert time.monotonic() - mended < BACK_SECONDS, f"{site} did not come back"
        time.sleep(0.25)
    found[site] = {
        "round": round_,
        "same round": round_ in lab.rounds_of(site),
        "went on": closed - round_ + 1,
        "back": time.monotonic() - mended,
    }


def words(found):
    same = "the same round closed with it" if found["same round"] else "its round was lost"
    return (
        f"{same}; {max(found['went on'], 0)} rounds closed meanwhile; counted again "
        f"{found['back']:.0f} s after the link was back"
    )


EXPECTED = "the round closes with the site, or the others go on; the site comes back by itself"
CUTS = [(5, "waiting", "receiving"), (5, "training", "sending"),
        (60, "waiting", "receiving"), (60, "training", "sending"),
        (300, "waiting", "receiving"), (300, "training", "sending")]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "first", "second"), CUTS, ids=[f"{c[0]} s {c[1]}, {c[2]}" for c in CUTS]
)
def test_a_link_that_is_cut(lab, matrix, seconds, first, second):
    pairs = {"ct-1": first, "ct-2": second}
    found, threads = {}, []
    for site, phase in pairs.items():
        threads.append(threading.Thread(target=cut, args=(lab, site, phase, seconds, found)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    for site, phase in pairs.items():
        number, done = (
            f"24.cut.{seconds}s.{phase}",
            f"link of {site} cut for {seconds} s while {phase}",
        )
        with matrix(number, done, EXPECTED) as case:
            assert site in found, "the site did not come back"
            case.happened = words(found[site])
            case.lost = "nothing" if found[site]["same round"] else f"one round of {site}"
            if seconds == 5:
                assert found[site]["same round"]
            if seconds == 300:
                assert found[site]["went on"] >= 1


WIRES = {
    "24.wan": ("100 ms, 2 % loss, 20 Mbit/s", {"delay": 0.05, "loss": 0.02, "rate": 20e6}),
    "24.duplicated": ("5 % of packets doubled", {"delay": 0.02, "duplicate": 0.05}),
    "24.reordered": ("25 % of packets overtaken", {"delay": 0.02, "reorder": 0.25}),
    "24.narrow": ("1 Mbit/s", {"delay": 0.05, "rate": 1e6}),
}


@pytest.mark.parametrize("number", WIRES)
def test_a_poor_link(lab, matrix, number):
    what, how = WIRES[number]
    with matrix(number, f"all links: {what}", "rounds close with all sites") as case:
        for site in SITES:
            lab.lines.behave(site, **how)
        begun = lab.closed()
        try:
            lab.federation.wait(
                lambda: lab.closed() >= begun + 4, 300, "four more rounds close"
            )
        finally:
            for site in SITES:
                lab.lines.behave(site, **SLOW)
        later = [c for c in lab.journal.closed_rounds() if c.number > begun + 1]
        seconds = max(c.seconds for c in later)
        moved = max(a.sent + a.received for c in later for a in c.accepted)
        case.happened = f"rounds of at most {seconds:.0f} s with {moved} bytes each site"
        assert all(len(c.accepted) == len(SITES) for c in later)
