"""A label map for one image, on the image's own grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from client.data.dataset import CaseFiles
from client.data.preprocessing import finish, prepare
from client.data.reading import RawCase, read_image, write_label
from client.device import choose_device
from client.evaluation import predict_label
from common.catalogue import unknown
from common.errors import InputError
from common.networks import build_network
from common.networks.view import NamedArrays
from common.study.study import Study
from common.tensors import Weights


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a prediction needs of a run.

    Attributes:
        study: Network and preprocessing.
        weights: All arrays of the network, a site's own among them.
        statistics: Pooled mean and deviation by modality, a pair a channel.
    """

    study: Study
    weights: Weights
    statistics: Mapping[str, tuple[tuple[float, float], ...]]


def predict_file(
    model: Model, images: Sequence[Path], modality: str, target: Path, device: str = "auto"
) -> dict[str, int]:
    """Segment one image.

    Args:
        model: From a run.
        images: One NIfTI file a channel.
        modality: One of the study's.
        target: Where the label map appears; ids are 1 + the place in the study's labels.
        device: As in a profile.

    Returns:
        Voxels by label.

    Raises:
        InputError: If the modality is unknown or its statistics are not in the run.
        CaseError: If the image cannot be used.
    """
    study = model.study
    check_modality(model, modality)
    if not target.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{target}: a label map is NIfTI; let its name end in .nii.gz")
    if len(images) != study.channels:
        raise InputError(f"{len(images)} image files, the study has {study.channels} channels")
    place = choose_device(device)
    image, geometry = read_image(tuple(images), study, images[0].name)
    files = CaseFiles(
        name="image",
        subject="image",
        modality=modality,
        images=tuple(images),
        label=None,
        ids=(),
        annotated=(),
        split=None,
    )
    case = prepare(RawCase(files=files, image=image, label=None, geometry=geometry), study)
    case = finish(case, model.statistics.get(modality))
    labels = predict_label(network_of(model).to(place), case, study, place)
    write_label(target, labels, geometry)
    return {name: int((labels == i + 1).sum()) for i, name in enumerate(study.label_names)}


def check_modality(model: Model, modality: str) -> None:
    """Refuse a modality that the run cannot segment.

    Raises:
        InputError: If it is unknown, or its statistics are not in the run.
    """
    known = model.study.modalities
    if modality not in known:
        raise InputError(f"modality {modality!r} {unknown(modality, known)}")
    if known[modality].intensity == "hounsfield" and modality not in model.statistics:
        raise InputError(f"the run pooled no intensities of {modality}; no site had any")


def network_of(model: Model) -> nn.Module:
    """Build the network with the model's weights."""
    network = build_network(model.study)
    NamedArrays(network, model.study).write(model.weights)
    return network
