"""The file of weights that a study names for its encoder, where initial weights are built.

The study holds the file's SHA-256 and so does its hash, which is what hospitals approve; the
file is needed here alone, since sites get the weights from the hub.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import IncompatibleWeightsError, InputError
from common.study.study import Study
from common.study.transfer import PretrainedUNet
from common.tensors import TensorFile, digest_of

if TYPE_CHECKING:
    from torch import Tensor

OPTION = "--encoder-weights"


def read_encoder(study: Study, path: Path | None) -> Mapping[str, "Tensor"] | None:
    """Read the file that a study names; None where it names none.

    Args:
        study: Names the file by its digest.
        path: safetensors, or what torch.save wrote of a state dict; None if none was given.

    Raises:
        InputError: If one of the two is missing, the digest is another, or the file holds
            something else than named tensors.
    """
    network = study.network
    named = network.weights_sha256 if isinstance(network, PretrainedUNet) else ""
    if path is None:
        if not named:
            return None
        raise InputError(
            f"network.weights_sha256: the study names a file of weights, {named[:12]}...; "
            f"give it with {OPTION} FILE"
        )
    if not path.is_file():
        raise InputError(f"{path}: is no file of weights")
    found = digest_of(path)
    if not named:
        raise InputError(
            f"{path}: the study names no weights; write its SHA-256 into the study's "
            f"network.weights_sha256 (network pretrained_unet): {found}"
        )
    if found != named:
        raise InputError(f"{path}: has SHA-256 {found}, but the study names {named}")
    return _tensors_of(path)


def _tensors_of(path: Path) -> dict[str, "Tensor"]:
    import torch

    if path.suffix == ".safetensors":
        try:
            with TensorFile(path) as file:
                return {name: torch.from_numpy(file.read(name)) for name in file.slots}
        except IncompatibleWeightsError as error:
            raise InputError(f"{path}: {error}") from error
    try:
        # classifiers are published in this form; with weights_only nothing but tensors and
        # plain containers can come out of it
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # whatever a file of another kind raises
        what = "cannot be read as a state dict of tensors alone"
        raise InputError(f"{path}: {what} ({type(error).__name__})") from error
    named = isinstance(loaded, Mapping)
    if not named or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise InputError(f"{path}: holds no state dict, expected tensors by name")
    return dict(loaded)
