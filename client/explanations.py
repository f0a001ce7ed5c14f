"""A case explained in pictures, written at the site.

For each label one sheet: the image, what the network drew, and each map of why over the image.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from client.data.dataset import CaseFiles
from client.data.preprocessing import PreparedCase, finish, prepare
from client.data.reading import read_case
from client.device import choose_device
from client.evaluation import infer
from client.explain import explain
from client.pictures import fullest_slice, grey_of, painted, slice_of, write_png
from client.predict import Model, check_modality, network_of
from common.catalogue import unknown
from common.errors import InputError
from common.modality.bank import set_modality

CAPTION_HEIGHT, GAP, COLUMNS = 16, 4, 4
WARM = np.array((213, 94, 0), np.float32)  # seen by people with any colour vision
STRONGEST = 0.75  # share of the colour where a map is 1


def explain_case(
    model: Model,
    files: CaseFiles,
    folder: Path,
    labels: Sequence[str] = (),
    device: str = "auto",
) -> list[Path]:
    """Write a sheet of pictures for each label.

    Args:
        model: From a run.
        files: The case; its label map is not looked at.
        folder: Made if missing; the site's own.
        labels: Of the study; by default all that the network found in the case.
        device: As in a profile.

    Returns:
        The sheets.

    Raises:
        CaseError: If the image cannot be used.
        InputError: If a label is unknown, or none is given and the network found none.
    """
    study = model.study
    for label in labels:
        if label not in study.label_names:
            raise InputError(f"label {label!r} {unknown(label, study.label_names)}")
    check_modality(model, files.modality)
    place = choose_device(device)
    case = prepare(read_case(files, study), study)
    case = finish(case, model.statistics.get(files.modality))
    network = network_of(model).to(place).eval()
    drawn = infer(network, case.image, files.modality, study, place).argmax(0)
    found = [name for i, name in enumerate(study.label_names) if (drawn == i + 1).any()]
    if not labels and not found:
        raise InputError(f"case {files.name}: the network found none of {study.label_names}")
    folder.mkdir(parents=True, exist_ok=True)
    sheets = []
    for label in labels or found:
        index = study.label_names.index(label) + 1
        image, map_ = window(case, drawn, index, study.training.patch)
        set_modality(network, files.modality)
        x = torch.from_numpy(image)[None].to(place)
        mask = torch.from_numpy(map_ == index).to(place)
        heats = explain(network, x, index, mask if bool(mask.any()) else None)
        named = {heat.name: heat.values.cpu().numpy() for heat in heats}
        sheets.append(folder / f"{files.modality}-{files.name}-{label}.png")
        write_png(sheets[-1], sheet(image[0], map_, named, index))
    return sheets


def window(
    case: PreparedCase, drawn: np.ndarray, index: int, patch: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut image and label map to the patch around where the label was drawn.

    Where the image is smaller it is filled up with its least value; where the label was drawn
    nowhere, the middle is taken.
    """
    image = case.image
    places = np.argwhere(drawn == index)
    middle = places.mean(axis=0) if len(places) else np.array(drawn.shape) / 2
    fill = [(0, max(0, side - have)) for side, have in zip(patch, drawn.shape, strict=True)]
    image = np.pad(image, [(0, 0), *fill], constant_values=float(image.min()))
    drawn = np.pad(drawn, fill)
    starts = [
        int(np.clip(round(centre - side / 2), 0, have - side))
        for centre, side, have in zip(middle, patch, drawn.shape, strict=True)
    ]
    cut = tuple(slice(first, first + side) for first, side in zip(starts, patch, strict=True))
    return np.ascontiguousarray(image[:, *cut]), np.ascontiguousarray(drawn[cut])


def sheet(
    image: np.ndarray, drawn: np.ndarray, heats: dict[str, np.ndarray], index: int
) -> np.ndarray:
    """Return all panels with their captions beside each other; (H, W, 3), uint8.

    Args:
        image: One channel of the window.
        drawn: Label map of the window.
        heats: Maps from 0 to 1 by name.
        index: Of the label.
    """
    only = np.where(drawn == index, drawn, 0)
    place = fullest_slice(only)
    grey = grey_of(slice_of(image, place))
    outline = slice_of(only, place)
    panels = {"image": painted(grey, np.zeros_like(outline)), "drawn": painted(grey, outline)}
    panels |= {n: warmed(grey, slice_of(heat, place)) for n, heat in heats.items()}
    height, width = grey.shape
    rows = -(-len(panels) // COLUMNS)
    size = (
        min(len(panels), COLUMNS) * (width + GAP) - GAP,
        rows * (height + CAPTION_HEIGHT + GAP) - GAP,
    )
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for i, (name, panel) in enumerate(panels.items()):
        left = i % COLUMNS * (width + GAP)
        top = i // COLUMNS * (height + CAPTION_HEIGHT + GAP)
        pen.text((left + 2, top + 2), name, fill="black")
        canvas.paste(Image.fromarray(panel), (left, top + CAPTION_HEIGHT))
    return np.asarray(canvas)


def warmed(grey: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Colour a grey picture where a map is high; (H, W, 3), uint8."""
    share = STRONGEST * np.clip(heat, 0, 1)[..., None]
    coloured: np.ndarray = grey[..., None] * (1 - share) + WARM * share
    return coloured.astype(np.uint8)
