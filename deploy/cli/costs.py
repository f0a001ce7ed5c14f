"""What each network costs to train, measured on this machine.

Every network in a process of its own, so that one's memory is not another's.
"""

import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from rich.table import Table

from common.study.networks import NetworkConfig
from common.study.study import Label, Modality, Study, Training

STEPS = 3
LEAST_MB = 0.01
STUDY = Study(
    name="cost",
    labels=(Label(name="one"), Label(name="two")),
    modalities={"ct": Modality(intensity="arbitrary"), "mr": Modality(intensity="arbitrary")},
)


@dataclass(frozen=True, kw_only=True)
class NetworkCost:
    """What one network costs at one size.

    Attributes:
        name: In the catalogue.
        dimensions: 2 or 3.
        side: Of the patch.
        parameters: Trainable numbers for two structures, norms of two modalities among them.
        round_bytes: Weights to a site with one modality, as many back.
        memory_mb: Peak of a training step above the idle process, megabytes.
        seconds: Of the fastest step: forward, backward, optimiser.
        problem: Why it could not be measured; empty if it was.
    """

    name: str
    dimensions: int
    side: int = 0
    parameters: int = 0
    round_bytes: int = 0
    memory_mb: float = 0.0
    seconds: float = 0.0
    problem: str = ""


def costs(
    configs: list[NetworkConfig], *, patch: int, batch: int, dimensions: Literal[2, 3]
) -> Iterator[NetworkCost]:
    """Measure one network after another.

    Args:
        configs: As a study would have them.
        patch: Side of the patch; where a network cannot take it, the nearest that it can.
        batch: Images a step.
        dimensions: 2 or 3; a network that exists in the other only is left out.
    """
    for config in configs:
        if dimensions not in config.dimensions:
            continue
        side = _side(config, patch, dimensions)
        study = replace(
            STUDY,
            dimensions=dimensions,
            network=config,
            training=Training(patch=(side,) * dimensions, batch=batch),
        )
        if problem := _too_large(study):
            yield NetworkCost(
                name=config.name, dimensions=dimensions, side=side, problem=problem
            )
            continue
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                yield pool.submit(measure, study).result()
            except BrokenProcessPool:
                what = "the system ended it, most likely for want of memory"
                yield NetworkCost(
                    name=config.name, dimensions=dimensions, side=side, problem=what
                )


def _side(config: NetworkConfig, patch: int, dimensions: int) -> int:
    """Return the side nearest to the one asked for that a network can take."""
    step = config.divisor
    side = max(2 * step, round(patch / step) * step)
    return min(side, config.largest_side(dimensions) // step * step)


def _too_large(study: Study) -> str:
    """Say why a step cannot be measured here; nothing if it may fit."""
    from client.device import choose_device
    from client.memory import free_bytes, least_bytes

    needed, free = least_bytes(study), free_bytes(choose_device("auto"))
    if needed is None or free is None or needed <= free:
        return ""
    return f"needs at least {needed / 1e9:.0f} GB, and {free / 1e9:.0f} GB are free here"


def measure(study: Study) -> NetworkCost:
    """Train a few steps on noise; to be called in a fresh process."""
    import torch

    from client.device import choose_device, in_fast_layout
    from common.losses.deep import answers_of
    from common.modality.bank import set_modality
    from common.networks import build_network
    from deploy.cli.describe import cost_of

    device = choose_device("auto")
    cost = cost_of(study)
    network = in_fast_layout(build_network(study).to(device))
    set_modality(network, "ct")
    optimizer = torch.optim.AdamW(network.parameters())
    shape = (study.training.batch, study.channels, *study.training.patch)
    x = torch.randn(shape, device=device)
    before, best = _memory_mb(device.type), float("inf")
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer.zero_grad()
        torch.stack([a.square().mean() for a in answers_of(network(x))]).sum().backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return NetworkCost(
        name=study.network.name,
        dimensions=study.dimensions,
        side=study.training.patch[0],
        parameters=cost.parameters,
        round_bytes=cost.down_bytes,
        memory_mb=max(_memory_mb(device.type) - before, LEAST_MB),
        seconds=best,
    )


def _memory_mb(device: str) -> float:
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():
        now = [line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line]
        return int(now[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def cost_page(measured: list[NetworkCost], *, patch: int, batch: int) -> str:
    """Return the same as a section in Markdown."""
    dimensions = measured[0].dimensions if measured else 2
    lines = [
        f"## {dimensions}-D, {_images(batch)} of {' x '.join([str(patch)] * dimensions)}",
        "",
        "| network | parameters | weights a round, each way | memory of a step | a step |",
        "|---|---|---|---|---|",
    ]
    for cost in _in_order(measured):
        name = f"`{cost.name}`" + (f" at {cost.side}" if cost.side != patch else "")
        if cost.problem:
            lines.append(f"| {name} | | | {cost.problem} | |")
            continue
        lines.append(
            f"| {name} | {cost.parameters:,} | {cost.round_bytes / 1e6:.2f} MB "
            f"| {cost.memory_mb:.0f} MB | {cost.seconds:.2f} s |"
        )
    return "\n".join(lines) + "\n"


def _images(batch: int) -> str:
    return "1 image" if batch == 1 else f"{batch} images"


def _in_order(measured: list[NetworkCost]) -> list[NetworkCost]:
    return sorted(measured, key=lambda cost: (bool(cost.problem), cost.seconds))


def cost_table(measured: list[NetworkCost], *, patch: int, batch: int) -> Table:
    """Return a table of costs, the cheapest step first."""
    table = Table(
        title=f"training step of {_images(batch)} of {patch} a side, on this machine",
        title_justify="left",
    )
    for column in ("network", "dimensions", "parameters", "a round", "memory", "step"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for cost in _in_order(measured):
        name = cost.name + (f" at {cost.side}" if cost.side != patch else "")
        if cost.problem:
            table.add_row(name, f"{cost.dimensions}-D", cost.problem)
            continue
        table.add_row(
            name, f"{cost.dimensions}-D", f"{cost.parameters:,}",
            f"{cost.round_bytes / 1e6:.2f} MB", f"{cost.memory_mb:.0f} MB",
            f"{cost.seconds * 1e3:.0f} ms",
        )  # fmt: skip
    return table
