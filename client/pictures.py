"""Slices for the report of a simulation: image, reference outline, predicted outline.

They are made and kept at the site; a hub never has them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from client.data.preprocessing import PreparedCase
from client.data.reading import read_image
from common.files import write_json, writing
from common.study.study import Study

SMALLEST_SIDE = 192


def write_pictures(
    folder: Path,
    cases: Sequence[PreparedCase],
    predictions: Mapping[str, Mapping[str, np.ndarray]],
    study: Study,
    most: int,
) -> None:
    """Write PNG files of the first test cases and an index of them.

    Args:
        folder: Made if missing.
        cases: Test cases.
        predictions: Label map (canonical, original grid) by model and case name.
        study: Names of the classes.
        most: How many cases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for case in cases[:most]:
        if case.reference is None:
            continue
        image, _ = read_image(case.files.images, study, case.files.name)
        place = fullest_slice(case.reference)
        base = grey_of(slice_of(image[0], place))
        layers = {
            "image": np.zeros_like(slice_of(case.reference, place)),
            "reference": slice_of(case.reference, place),
        }
        layers |= {
            model: slice_of(maps[case.files.name], place)
            for model, maps in predictions.items()
            if case.files.name in maps
        }
        for layer, labels in layers.items():
            name = f"{case.files.modality}-{case.files.name}-{layer}.png"
            write_png(folder / name, painted(base, labels))
            index.append(
                {
                    "case": case.files.name,
                    "modality": case.files.modality,
                    "layer": layer,
                    "file": name,
                }
            )
    write_json(folder / "index.json", index)


def fullest_slice(reference: np.ndarray) -> int | None:
    """Return the axial slice with the most labelled voxels; None in 2-D."""
    if reference.ndim == 2:  # noqa: PLR2004
        return None
    return int((reference > 0).sum(axis=(0, 1)).argmax())


def slice_of(volume: np.ndarray, place: int | None) -> np.ndarray:
    """Cut a slice and turn it as radiologists look: patient's right at the left, front up."""
    flat = volume if place is None else volume[:, :, place]
    turned = flat[::-1, ::-1].T
    factor = max(1, -(-SMALLEST_SIDE // max(turned.shape)))
    return np.repeat(np.repeat(turned, factor, axis=0), factor, axis=1)


def grey_of(image: np.ndarray) -> np.ndarray:
    """Return a picture's grey levels, 0 to 255, the darkest and brightest 1 % cut off."""
    low, high = np.percentile(image, (1, 99))
    grey: np.ndarray = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255
    return grey.astype(np.uint8)


def painted(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw the outline of each label over the image; (H, W, 3), uint8."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        outline = mask & ~ndimage.binary_erosion(mask, iterations=2, border_value=0)
        picture[outline] = COLOURS[(int(label) - 1) % len(COLOURS)]
    return picture


# told apart by people with any colour vision (Okabe and Ito)
COLOURS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (213, 94, 0),
        (204, 121, 167),
        (0, 114, 178),
    ],
    np.uint8,
)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3), uint8, whole or not at all."""
    from PIL import Image

    with writing(path) as file:
        Image.fromarray(picture).save(file, format="PNG", optimize=True)
