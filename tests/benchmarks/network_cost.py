"""What a training step of every network costs, in 2-D and in 3-D, as ``fedseg networks --cost`` has it.

    python tests/benchmarks/network_cost.py [--patch 96] [--out docs/results/network_cost.md]

Each network at its default size, in a process of its own, with all of the processor's cores. The
page is written after each, so that one that was interrupted has what was measured.
"""

import argparse
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

HEAD = """# What a training step of every network costs

`python tests/benchmarks/network_cost.py`: forward, backward and optimiser of each network at its
default size, the fastest of three steps, one process after the other. A network that cannot take
the patch has the nearest that it can, with its side. Memory is what the steps add to the process:
activations, gradients, the optimiser's state, not the weights. `fedseg networks --cost` measures
the same elsewhere, on a GPU where there is one.

Measured on: {machine}.
"""
BATCH = {2: 2, 3: 1}


def machine() -> str:
    """Say on what was measured, without the name of the machine."""
    import torch

    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    kind = names[0] if names else platform.machine()
    if torch.cuda.is_available():
        kind = torch.cuda.get_device_name()
    return (
        f"{kind}, {torch.get_num_threads()} threads, PyTorch {version('torch')}, MONAI "
        f"{version('monai')}, {datetime.now(UTC):%Y-%m-%d}"
    )


def main() -> None:
    """Measure all, writing as they come."""
    from common.files import write_text
    from common.networks import NETWORKS
    from deploy.cli.costs import cost_page, costs

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "results" / "network_cost.md"
    )
    given = parser.parse_args()
    configs = [NETWORKS[name].config() for name in given.only]
    head, parts = HEAD.format(machine=machine()), {}
    for dimensions, batch in BATCH.items():
        measured = []
        for found in costs(configs, patch=given.patch, batch=batch, dimensions=dimensions):
            measured.append(found)
            print(
                f"{dimensions}-D {found.name}: {found.seconds:.2f} s {found.problem}",
                flush=True,
            )
            parts[dimensions] = cost_page(measured, patch=given.patch, batch=batch)
            write_text(given.out, "\n".join([head, *parts.values()]))


if __name__ == "__main__":
    main()
