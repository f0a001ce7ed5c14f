"""The composable U-Net configured as MONAI's BasicUNet, beside BasicUNet itself.

BasicUNet is MONAI's as it comes, activations in place, with the same norm. Both networks are
trained in turn on patches of one size in one process, a step of one and a step of the other; what
is printed are the medians of the ratios of such pairs. Memory is the growth of the peak of a
process of its own. Then the composable one against itself without channels-last, and compiled.

    python tests/benchmarks/composable.py [--steps 15]
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from monai.networks.nets.basic_unet import BasicUNet
from torch import nn

from client.device import in_fast_layout
from common.modality.bank import replace_norms
from common.networks.composable import build_composable
from common.study.composable import ComposableUNet

OURS = ComposableUNet(widths=(32, 32, 64, 128, 256))
SIDES, BATCH, CLASSES = {2: 128, 3: 48}, 2, 3


def network_of(whose: str, dimensions: int, *, fast: bool = True) -> nn.Module:
    """Build one of the two with group norm."""
    if whose == "ours":
        network = build_composable(OURS, dimensions=dimensions, channels=1, classes=CLASSES)
    else:
        network = BasicUNet(dimensions, 1, CLASSES, features=(32, 32, 64, 128, 256, 32))
    replace_norms(network, "group")
    return in_fast_layout(network, "cuda") if fast else network


def step_of(network: nn.Module, dimensions: int) -> Callable[[], float]:
    """Return a function that does one training step and tells its seconds."""
    optimizer = torch.optim.AdamW(network.parameters())
    x = torch.randn(BATCH, 1, *[SIDES[dimensions]] * dimensions)

    def step() -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - began

    return step


def ratio(
    one: Callable[[], float], other: Callable[[], float], steps: int
) -> tuple[float, float]:
    """Return the median ratio of the seconds of pairs of steps, and the median of the first."""
    for warm in (one, other):
        warm()
    pairs = [(one(), other()) for _ in range(steps)]
    return statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs)


def peak_mb() -> float:
    """Return the peak of this process's resident memory, megabytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


def memory_of(whose: str, dimensions: int) -> float:
    """Return by how much two steps raise the peak of a process of its own, megabytes."""
    command = [sys.executable, __file__, "--memory", whose, str(dimensions)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--memory"]:
        dimensions = int(sys.argv[3])
        step = step_of(network_of(sys.argv[2], dimensions), dimensions)
        before = peak_mb()
        step()
        step()
        print(peak_mb() - before)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    steps = parser.parse_args().steps
    for dimensions in SIDES:
        ours = step_of(network_of("ours", dimensions), dimensions)
        found, seconds = ratio(
            ours, step_of(network_of("monai", dimensions), dimensions), steps
        )
        memory = [memory_of(whose, dimensions) for whose in ("ours", "monai")]
        print(f"{dimensions}-D: composable / BasicUNet: time {found:.2f} ({seconds:.2f} s a step), "
              f"memory {memory[0] / memory[1]:.2f} ({memory[0]:.0f} MB)", flush=True)  # fmt: skip
        slow = step_of(network_of("ours", dimensions, fast=False), dimensions)
        print(
            f"{dimensions}-D: channels-last / not: {ratio(ours, slow, steps)[0]:.2f}",
            flush=True,
        )
        try:
            compiled = step_of(torch.compile(network_of("ours", dimensions)), dimensions)
            print(
                f"{dimensions}-D: compiled / not: {ratio(compiled, ours, steps)[0]:.2f}",
                flush=True,
            )
        except Exception as error:  # noqa: BLE001 - a machine without a compiler has none
            print(f"{dimensions}-D: torch.compile: {type(error).__name__}", flush=True)


if __name__ == "__main__":
    main()
