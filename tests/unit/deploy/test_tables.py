"""What the coordinator and a site's people see of a hub's warnings."""

import time

import pytest
from rich.console import Console

from deploy.cli.federation import hub_tables
from deploy.cli.offers import site_status
from server.registry import ADMITTED, REVOKED, Registry, SiteRow
from tests.support.deployment import new_hub, new_site


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


def test_a_site_shows_what_the_hub_says(tmp_path):
    from common.files import write_json
    from deploy.provision.authority import Authorities

    hub = new_hub(tmp_path / "hub")
    site = new_site(tmp_path / "site", Authorities.open(hub.pki))
    (site.path / "run").mkdir(exist_ok=True)
    told = {"time": time.time(), "hub": "reached", "worker": {}, "sentences": ["a warning"]}
    write_json(site.path / "run" / "agent.json", told)

    assert "a warning" in shown(site_status(site))
