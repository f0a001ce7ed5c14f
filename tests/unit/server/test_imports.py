import json
import subprocess
import sys

import pytest

from tests.support.studies import ROOT

HEAVY = ("torch", "monai", "nibabel")
IMAGES = ("pydicom", "PIL", "scipy")


def loaded_by(module):
    """Return the modules that a fresh process holds after one import."""
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("server.app", (*HEAVY, *IMAGES, "client", "deploy")),
        ("client.app", (*HEAVY, "server", "deploy")),
        ("common.study", (*HEAVY, *IMAGES, "flwr", "server", "client", "deploy")),
        ("server.aggregators.mean", (*HEAVY, *IMAGES, "flwr", "client", "deploy")),
    ],
    ids=["hub", "site's messenger", "study", "aggregation"],
)
def test_a_part_loads_nothing_that_it_has_no_business_with(module, absent):
    assert loaded_by(module).isdisjoint(absent)
