"""Row 31: a site whose fedseg is a patch or a minor version older or newer than the hub's."""

import json
import os
import time

import pytest

from common.study.load import parse_study
from common.study.study import canonical_json
from deploy.local import COORDINATOR, LocalFederation
from server.journal import Journal
from tests.faults.lab import quiet_end
from tests.support.federations import DEFAULTS, SMALL, phantom_sites
from tests.support.studies import ROOT

pytestmark = pytest.mark.slow

HUB = "0.1.5"
VERSIONS = {
    "ct-1": ("patch-older", "0.1.4"),
    "ct-2": ("patch-newer", "0.1.6"),
    "mr-1": ("minor-older", "0.0.9"),
    "mr-2": ("minor-newer", "0.2.0"),
}


def installed(folder, version):
    """Pretend that another version is installed; return the environment for it."""
    about = folder / version / f"fedseg-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: fedseg\nVersion: {version}\n"
    )
    held = os.environ.get("PYTHONPATH", str(ROOT))
    return {"PYTHONPATH": os.pathsep.join([str(about.parent), held])}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v")
    profiles = phantom_sites(folder / "data", modalities=("ct", "ct", "mr", "mr"))
    federation = LocalFederation(folder)
    federation.environments[COORDINATOR] = installed(folder / "versions", HUB)
    for site, (_, version) in VERSIONS.items():
        federation.environments[site] = installed(folder / "versions", version)
    try:
        federation.make_hub()
        federation.start_hub()
        for profile in profiles:
            federation.start_site(federation.join(profile))
        file = folder / "study.yaml"
        file.write_text(canonical_json(parse_study(SMALL.format(**{**DEFAULTS, "rounds": 1}))))
        run = federation.start_study(file)
        for site in VERSIONS:
            federation.approve(site, run, "--minimum-cases", "1")
        until = time.monotonic() + 90
        while (
            federation.registry.run(run).state not in ("paused", "failed", "finished")
            and time.monotonic() < until
        ):
            time.sleep(0.3)
        yield federation, federation.registry.run(run)
    finally:
        quiet_end(federation)


@pytest.mark.parametrize("site", VERSIONS)
def test_another_version_works_or_is_refused_with_both_named(ended, matrix, site):
    federation, row = ended
    kind, version = VERSIONS[site]
    with matrix(
        f"31.{kind}", f"hub {HUB}, site {version}", "works, or refused with both versions named"
    ) as case:
        closed = Journal(federation.hub / "runs" / row.run).closed_rounds()
        works = any(a.report.site == site for c in closed for a in c.accepted)
        line = next(
            (x.strip() for x in row.sentence.splitlines() if x.strip().startswith(site)), ""
        )
        own = "; ".join(
            json.loads((federation.site(site) / "run/agent.json").read_text())["sentences"]
        )
        case.happened = f"works: {works}; the hub says: {line or row.sentence or 'nothing'}; the site is told: {own or 'nothing'}"
        assert works or (HUB in line + own and version in line + own), (
            "the versions are not named"
        )
