"""A run's folder: the study, its initial weights, and with what they were made."""

import platform
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.files import write_text
from common.parameters import save_weights
from common.study.study import Study, as_plain, study_hash
from common.tensors import digest_of
from deploy.simulation.encoder_weights import read_encoder
from server.run import RunInfo, write_run

if TYPE_CHECKING:
    from torch import nn

VERSIONS_OF = ("fedseg", "flwr", "torch", "monai", "numpy", "nibabel", "safetensors")


def build_run(
    study: Study,
    folder: Path,
    sites: Mapping[str, str],
    *,
    encoder: Path | None = None,
    told: Callable[[str], None] = lambda _sentence: None,
) -> RunInfo:
    """Make a run's folder with its initial weights.

    Args:
        study: What will be trained; its seed draws the weights.
        folder: Made; must not hold a run already.
        sites: Profiles of a simulation by site, empty elsewhere.
        encoder: File of the weights that the study names for its encoder.
        told: Called with what was taken of it.

    Raises:
        InputError: If the folder holds something or cannot be made, or the encoder's file is
            not the one that the study names, or does not fit.
    """
    from common.networks.view import NamedArrays

    network = _network_of(study, encoder, told)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = any(item.name != ".lock" for item in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from error
    if held:
        raise InputError(
            f"{folder}: is not empty; choose another folder, or go on with "
            f"fedseg simulate --resume {folder}"
        )
    hash_ = study_hash(study)
    arrays = NamedArrays(network, study)
    save_weights(
        folder / "initial.safetensors",
        arrays.read(),
        arrays.table,
        {"study": hash_, "name": study.name, "round": "0"},
    )
    write_text(folder / ".gitignore", "*\n")
    now = datetime.now(UTC)
    info = RunInfo(
        run=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}",
        study=as_plain(study),
        hash=hash_,
        created=now.isoformat(timespec="seconds"),
        initial=digest_of(folder / "initial.safetensors"),
        sites=dict(sites),
        versions={name: version(name) for name in VERSIONS_OF}
        | {"python": platform.python_version()},
    )
    write_run(folder, info)
    return info


def _network_of(study: Study, encoder: Path | None, told: Callable[[str], None]) -> "nn.Module":
    from common.networks import build_network

    given = read_encoder(study, encoder)
    if given is None:
        return build_network(study)
    try:
        return build_network(study, given, told)
    except InputError as error:
        raise InputError(f"{encoder}: {error}") from error
