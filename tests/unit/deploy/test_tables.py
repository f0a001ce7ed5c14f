"""What the coordinator and a site's people see of a hub's warnings."""

import time
from dataclasses import replace

import pytest
from rich.console import Console

from common.study.study import SearchTerms, approval_hash, canonical_json
from common.wire import control_pb2 as pb
from deploy.cli.federation import hub_tables
from deploy.cli.offers import offer_in_words, offers_table, site_status
from deploy.supervise.offers import Offers
from server.registry import (
    ADMITTED,
    FAILED,
    FINISHED,
    PAUSED,
    REVOKED,
    RUNNING,
    STOPPED,
    ProgressRow,
    Registry,
    RunRow,
    SiteRow,
)
from tests.support.deployment import new_hub, new_site
from tests.support.federations import phantom_sites, small_study


def shown(*tables):
    console = Console(width=300)
    with console.capture() as capture:
        for table in tables:
            console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    ("state", "ago", "expected"),
    [(ADMITTED, 1, True), (ADMITTED, 3600, False), (REVOKED, 1, False)],
    ids=["now", "an hour ago", "revoked"],
)
def test_the_hub_shows_that_two_machines_report_as_a_site(tmp_path, state, ago, expected):
    registry = Registry(tmp_path / "registry.db")
    registry.create()
    registry.put(SiteRow, {"name": "A"}, state=state, doubled=time.time() - ago)

    assert ("two machines report as this site" in shown(*hub_tables(registry))) is expected


@pytest.mark.parametrize("state", [RUNNING, PAUSED, STOPPED, FINISHED, FAILED])
def test_what_a_site_was_at_is_told_until_the_run_has_ended(tmp_path, state):
    registry = Registry(tmp_path / "registry.db")
    registry.create()
    registry.put(
        RunRow, {"run": "r"}, hash="h", folder="", state=state, wanted=RUNNING, created=0.0,
        round=3,
    )  # fmt: skip
    told = ProgressRow(
        site="A", run="r", round=3, phase="train", done=2, total=8, bytes_in=0, bytes_out=0,
        moved=time.time(),
    )  # fmt: skip
    registry.note_progress([told])

    row = next(line for line in shown(*hub_tables(registry)).splitlines() if state in line)

    assert "A" in row
    assert ("round 3" in row) is (state in (RUNNING, PAUSED))


def test_a_site_shows_what_the_hub_says(tmp_path):
    from common.files import write_json
    from deploy.provision.authority import Authorities

    hub = new_hub(tmp_path / "hub")
    site = new_site(tmp_path / "site", Authorities.open(hub.pki))
    (site.path / "run").mkdir(exist_ok=True)
    told = {"time": time.time(), "hub": "reached", "worker": {}, "sentences": ["a warning"]}
    write_json(site.path / "run" / "agent.json", told)

    assert "a warning" in shown(site_status(site))


def test_a_site_is_told_how_much_a_search_asks_for_and_what_may_differ(tmp_path):
    from deploy.provision.authority import Authorities

    profile = phantom_sites(tmp_path / "data", modalities=("ct",))[0]
    hub = new_hub(tmp_path / "hub")
    site = new_site(tmp_path / "site", Authorities.open(hub.pki))
    site.profile.write_text(profile.read_text())
    shown_study = replace(small_study(rounds=4), search=SearchTerms(trials=7))
    name = approval_hash(shown_study)
    offers = Offers(tmp_path / "offers")
    offers.keep([pb.Offer(hash=name, study=canonical_json(shown_study))])
    offers.keep([pb.Offer(hash="0" * 64, study=canonical_json(shown_study))])  # refused

    table, words = shown(offers_table(offers, site)), offer_in_words(offers.find(name), site)

    assert offers.hashes() == [name]
    assert "7 x 4" in table
    assert "differs" in table
    assert name in words
    assert "at most 7 trials of 4 rounds, each with another network" in words
    assert "in all 28 rounds" in words
    assert "above, of the one shown" in words
