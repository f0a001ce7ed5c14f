"""What a network costs, measured in a process of its own and told as a table and a page."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from client import memory
from common.networks import NETWORKS
from common.study.networks import BasicUNet, KiNet, UNet
from deploy.cli import costs as module
from deploy.cli.costs import NetworkCost, cost_page, costs
from deploy.cli.main import app

SMALL = UNet(channels=(4, 8, 8), strides=(2, 2), residual_units=1)


@pytest.fixture
def measured_here(monkeypatch):
    """Measure in this process: one of its own takes seconds to import torch."""
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))


def test_a_network_is_measured_at_the_nearest_size_that_it_takes():
    (found,) = costs([BasicUNet(features=(4, 4, 8, 8, 16, 4))], patch=40, batch=1, dimensions=2)

    assert found.problem == ""
    assert found.side == 32
    assert found.parameters > 1000
    # to a site of one modality: less than all, as it gets one set of norms
    assert 0 < found.round_bytes < 4 * found.parameters
    assert found.seconds > 0
    assert found.memory_mb > 0


def test_a_network_is_measured_at_the_largest_patch_that_it_takes(measured_here):
    (found,) = costs([KiNet(widths=(2, 2))], patch=96, batch=1, dimensions=3)

    assert found.problem == ""
    assert found.side == 32
    assert "| `ki_net` at 32 |" in cost_page([found], patch=96, batch=1)


def test_a_network_of_the_other_dimensions_is_left_out():
    only = [n for n in NETWORKS if NETWORKS[n].config().dimensions == (3,)]

    assert only
    assert (
        list(costs([NETWORKS[n].config() for n in only], patch=32, batch=1, dimensions=2)) == []
    )


def test_a_step_that_cannot_fit_is_not_tried(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _device: 2e9)

    (found,) = costs([SMALL], patch=4096, batch=64, dimensions=2)

    assert "needs at least" in found.problem
    assert "2 GB are free here" in found.problem


def test_the_page_has_the_cheapest_step_first_and_what_could_not_be_measured_last():
    held = [
        NetworkCost(name="none", dimensions=3, side=96, problem="needs at least 99 GB"),
        NetworkCost(name="slow", dimensions=3, side=96, parameters=1, seconds=2.0),
        NetworkCost(name="quick", dimensions=3, side=96, parameters=1234, round_bytes=5_000_000,
                    memory_mb=20.0, seconds=1.0),
    ]  # fmt: skip

    page = cost_page(held, patch=96, batch=2)

    assert "## 3-D, 2 images of 96 x 96 x 96" in page
    rows = [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")]
    assert rows == ["quick", "slow", "none"]
    assert "| `quick` | 1,234 | 5.00 MB | 20 MB | 1.00 s |" in page
    assert "needs at least 99 GB" in page


@pytest.mark.parametrize("name", ["dints_search", "swin_unetr"])
def test_a_network_that_cannot_be_traced_is_measured_too(name, tmp_path, measured_here):
    out = tmp_path / "costs.md"

    done = CliRunner().invoke(
        app,
        [
            "networks",
            "--cost",
            "--patch",
            "16",
            "--batch",
            "1",
            "--only",
            name,
            "--out",
            str(out),
        ],
    )

    assert done.exit_code == 0, done.output
    row = next(line for line in out.read_text().splitlines() if line.startswith(f"| `{name}`"))
    assert row.endswith(" s |")
