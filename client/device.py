"""Where a site computes, and with how many threads."""

import os

import torch

from common.errors import InputError


def choose_device(wanted: str) -> torch.device:
    """Return the device of a profile's ``device``.

    Args:
        wanted: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: If a GPU is asked for that is not there.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InputError(
                f"device: {wanted} is not there; this machine has {count} usable "
                "GPUs; write cpu or auto"
            )
    return device


def prepare_threads(threads: int) -> None:
    """Set torch's threads: the profile's, else the environment's, else one a core."""
    if threads:
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
