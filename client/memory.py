"""Whether a study's training step fits a site's device, before any case is read."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import TooLargeError
from common.losses.deep import answers_of
from common.modality.bank import set_modality
from common.networks import build_network
from common.study.load import parse_study
from common.study.study import Study, canonical_json

OWN_COPIES = {"adamw": 3, "sgd": 2}  # of the weights: gradients, and what the optimiser keeps
GIGABYTE = 1e9
MEMINFO = Path("/proc/meminfo")


def least_bytes(study: Study, *, mixed: bool = False) -> int | None:
    """Return what a training step needs at the least, beside the weights, in bytes.

    A forward pass without numbers (PyTorch's meta device) counts what it keeps for the backward
    pass. What is needed for a moment comes on top: measured peaks of fourteen networks on a CPU
    were 0.96 to 1.8 times this.

    Args:
        study: Its network, patch and batch.
        mixed: Whether the step is in 16-bit floats; then half is counted.

    Returns:
        None where the network cannot be run without numbers.
    """
    found = _kept_and_own(canonical_json(study))
    if found is None:
        return None
    kept, own = found
    return kept // (2 if mixed else 1) + OWN_COPIES[study.training.optimizer] * own


@lru_cache(maxsize=64)
def _kept_and_own(text: str) -> tuple[int, int] | None:
    """Return the bytes that a step keeps for its backward pass, and those of the weights."""
    study = parse_study(text)
    training = study.training
    try:
        with torch.device("meta"):
            network = build_network(study).train()
            image = torch.empty(training.batch, study.channels, *training.patch)
        set_modality(network, min(study.modalities))
        return kept_bytes(network, image), sum(p.nbytes for p in network.parameters())
    except (RuntimeError, NotImplementedError):
        return None


def kept_bytes(network: nn.Module, image: Tensor) -> int:
    """Return the bytes that a forward pass keeps beside the weights, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # noqa: SLF001 - a meta tensor has no address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answers = answers_of(network(image))
    own = {p.untyped_storage()._cdata for p in network.parameters()}  # noqa: SLF001
    found = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    del answers  # until here, or a storage's place could be another's
    return found


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that a device has left, in bytes; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # what this process holds in reserve it can use again
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + held)
    if device.type == "cpu" and MEMINFO.exists():
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        told = next((line for line in lines if line.startswith("MemAvailable:")), None)
        return int(told.split()[1]) * 1024 if told else None
    return None


def check_memory(study: Study, device: torch.device) -> None:
    """Refuse a study whose training step cannot fit.

    Raises:
        TooLargeError: Saying what is needed and free, and the largest patch that could fit.
    """
    mixed = study.training.mixed_precision and device.type == "cuda"
    needed, free = least_bytes(study, mixed=mixed), free_bytes(device)
    if needed is None or free is None or needed <= free:
        return
    fitting = largest_patch(study, free, mixed=mixed)
    advice = f"patch {list(fitting)} could fit" if fitting else "no smaller patch would fit"
    raise TooLargeError(
        f"a training step of {study.training.batch} patches of {list(study.training.patch)} "
        f"needs at least {needed / GIGABYTE:.1f} GB and {free / GIGABYTE:.1f} GB are free on "
        f"the {device.type}; {advice}, or ask for a smaller batch or network"
    )


def largest_patch(study: Study, free: int, *, mixed: bool = False) -> tuple[int, ...] | None:
    """Return the patch that fits, the longest sides cut step by step; None if none does."""
    step, patch = study.network.divisor, list(study.training.patch)
    while max(patch) > 2 * step:
        patch[patch.index(max(patch))] -= step
        smaller = replace(study, training=replace(study.training, patch=tuple(patch)))
        needed = least_bytes(smaller, mixed=mixed)
        if needed is not None and needed <= free:
            return tuple(patch)
    return None
