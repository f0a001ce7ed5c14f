"""Row 6 with real processes: all of a site's programs live a day in the past or in the future."""

import json
import shutil
import time
from pathlib import Path

import pytest

from common.study.load import parse_study
from deploy.local import local_federation
from tests.faults.lab import Lab, quiet_end
from tests.support.federations import DEFAULTS, SMALL, phantom_sites

pytestmark = pytest.mark.slow

STUDY = parse_study(
    SMALL.format(**{**DEFAULTS, "rounds": 60, "minimum": 1, "each": 0}).replace(
        "steps: 3", "steps: 40"
    )
)
LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
DAYS = {"day-behind": "-1d", "day-ahead": "+1d"}
REFUSED_SECONDS, BACK_SECONDS = 45, 150


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("k")
    profiles = phantom_sites(folder / "data", modalities=("ct", "mr"))
    with local_federation(folder, profiles) as (federation, names):
        made = Lab(federation, STUDY, profiles, names)
        try:
            yield made
        finally:
            made._simulated.join()
            quiet_end(federation)


def told_to(site):
    """Return what the site's people are told of the hub."""
    found = json.loads((site / "run" / "agent.json").read_text())
    return [found["hub"], *found["sentences"]]


@pytest.mark.skipif(LIBRARY is None, reason="needs faketime (apt-get install faketime)")
@pytest.mark.parametrize("name", DAYS)
def test_a_site_that_lives_in_another_day_is_told_and_nobody_waits_for_it(lab, matrix, name):
    with matrix(
        f"6.site.{name}.process",
        f"all programs of ct-1 with a clock set {DAYS[name]}, while a run is under way",
        "the site is told of its clock, the run goes on without it, and with it once the clock is right",
    ) as case:
        lab.fresh(rounds_left=40)
        federation = lab.federation
        lab.until(lambda: len(lab.closed()) >= 1, 120, "a round is closed")
        federation.end("ct-1")
        shutil.copy(LIBRARY, federation.folder / "clock.so")
        federation.environments["ct-1"] = {
            "LD_PRELOAD": str(federation.folder / "clock.so"),
            "FAKETIME": DAYS[name],
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        site, before = federation.site("ct-1"), len(lab.closed())
        (site / "run" / "agent.json").unlink(missing_ok=True)
        federation.start("ct-1", "site", "run", "--folder", str(site))
        told = []

        def is_told():
            if (site / "run" / "agent.json").exists():
                told[:] = told_to(site)
            return any("clock" in sentence for sentence in told)

        try:
            until = time.monotonic() + REFUSED_SECONDS
            while time.monotonic() < until and not is_told():
                time.sleep(0.5)
            lab.until(
                lambda: len(lab.closed()) >= before + 2, 120, "two rounds closed meanwhile"
            )
            without = [c.number for c in lab.closed()[before:] if "ct-1" in lab.lost_in(c)]
        finally:
            federation.end("ct-1")
            federation.environments.pop("ct-1")
            federation.start("ct-1", "site", "run", "--folder", str(site))
        began, newest = time.monotonic(), len(lab.closed())
        lab.until(
            lambda: any("ct-1" not in lab.lost_in(c) for c in lab.closed()[newest:]),
            BACK_SECONDS,
            "ct-1 takes part again",
        )
        case.happened = (
            f"told: {'; '.join(told) or 'nothing'}; rounds closed without it meanwhile: "
            f"{without}; took part again {time.monotonic() - began:.0f} s after its clock was right"
        )
        case.lost = f"rounds {without} of ct-1"
        assert any("clock" in sentence for sentence in told)
