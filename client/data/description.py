"""What a dataset says of itself in ``dataset.json``.

Two layouts are read: nnU-Net version 2 (``channel_names``; names to ids in ``labels``) and the
Medical Segmentation Decathlon (``training``, ``modality``; ids to names in ``labels``). Where a
file has the keys of both, it is nnU-Net's. Imports no image reader, so that a profile can be
checked quickly.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import DatasetError

FILE_NAME = "dataset.json"
ENDINGS = (".nii.gz", ".nii")
LARGEST_FILE_BYTES = 50_000_000
LARGEST_ID = 32_767  # label maps are int16


@dataclass(frozen=True)
class Description:
    """A dataset's own description.

    Attributes:
        labels: Id of each structure by name; the background, id 0, is left out.
        channels: Image channels of a case.
        file_ending: Of images and label maps, ``.nii.gz`` or ``.nii``.
        training: Decathlon only: image and label path of each case, relative to the folder;
            the label is none where it is not named. None in nnU-Net's layout.
    """

    labels: dict[str, int]
    channels: int
    file_ending: str
    training: tuple[tuple[str, str | None], ...] | None


def read_description(folder: Path) -> Description:
    """Read and check the ``dataset.json`` of a folder.

    Raises:
        DatasetError: If the folder or the file is absent, unreadable or lacks what is needed.
    """
    plain = _read_json(folder)
    is_nnunet = "channel_names" in plain
    if not is_nnunet and not isinstance(plain.get("modality"), dict):
        raise _error(
            folder,
            "has neither 'channel_names' (nnU-Net) nor a mapping 'modality' (Decathlon); "
            'add e.g. "channel_names": {"0": "CT"}',
        )
    channels = plain["channel_names"] if is_nnunet else plain["modality"]
    if not isinstance(channels, dict) or not channels:
        raise _error(folder, '\'channel_names\' is not a mapping such as {"0": "CT"}')
    ending = plain.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise _error(
            folder,
            f"'file_ending' is {ending!r}, expected one of {', '.join(ENDINGS)}; "
            "convert the images to NIfTI",
        )
    return Description(
        labels=_labels(folder, plain),
        channels=len(channels),
        file_ending=ending,
        training=None if is_nnunet else _training(folder, plain),
    )


def _read_json(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is no folder; give the dataset's own folder")
    path = folder / FILE_NAME
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise _error(folder, f"is larger than {LARGEST_FILE_BYTES} bytes, refused unread")
        plain = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder}: has no {FILE_NAME}; add one in the layout of nnU-Net or the Decathlon"
        ) from error
    except OSError as error:
        raise _error(folder, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _error(folder, f"is not valid JSON: {error}") from error
    if not isinstance(plain, dict):
        raise _error(folder, "is not a JSON object with keys such as 'labels'")
    return plain


def _error(folder: Path, what: str) -> DatasetError:
    return DatasetError(f"{folder}: {FILE_NAME} {what}")


def _labels(folder: Path, plain: Mapping[str, Any]) -> dict[str, int]:
    found = plain.get("labels")
    if not isinstance(found, dict) or not found:
        raise _error(folder, 'has no \'labels\'; expected e.g. {"background": 0, "liver": 1}')
    labels: dict[str, int] = {}
    for key, value in found.items():
        name, number = _name_and_id(folder, key, value)
        if name in labels or number in labels.values():
            raise _error(folder, f"gives label {name!r} or id {number} twice")
        labels[name] = number
    return {name: number for name, number in labels.items() if number != 0}


def _name_and_id(folder: Path, key: str, value: object) -> tuple[str, int]:
    if isinstance(value, list):
        raise _error(
            folder,
            f"makes label {key!r} a region of several ids, which is not supported; give each "
            "id its own label and join them in the profile's 'labels'",
        )
    # The Decathlon writes {"1": "liver"}, nnU-Net {"liver": 1}.
    name, number = (value, key) if isinstance(value, str) and key.isdecimal() else (key, value)
    if name == "ignore":
        raise _error(
            folder,
            "has the label 'ignore', which is not supported: such voxels would count as "
            "background",
        )
    try:
        as_id = int(str(number))
    except ValueError:
        as_id = -1
    if not 0 <= as_id <= LARGEST_ID:
        raise _error(
            folder, f"gives label {name!r} the id {number!r}, expected 0 to {LARGEST_ID}"
        )
    return str(name), as_id


def _training(folder: Path, plain: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    entries = plain.get("training")
    if not isinstance(entries, list):
        raise _error(folder, "has no list 'training' with an 'image' and a 'label' a case")
    pairs: list[tuple[str, str | None]] = []
    for i, entry in enumerate(entries):
        image = entry.get("image") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(image, str) or not (label is None or isinstance(label, str)):
            raise _error(folder, f"has no path 'image' or 'label' in entry {i} of 'training'")
        pairs.append((image, label))
    return tuple(pairs)


def study_label(
    name: str,
    number: int,
    *,
    mapping: Mapping[str, str],
    label_names: Sequence[str],
    not_annotated: Sequence[str],
) -> str | None:
    """Return the study's label that a dataset's label stands for, if any.

    The profile's mapping wins, by name before by id; else the same name in both, unless the
    profile says that the study's label is not annotated here.

    Args:
        name: The dataset's name of the label.
        number: Its id.
        mapping: The profile's ``labels``.
        label_names: The study's labels.
        not_annotated: The profile's ``not_annotated``.
    """
    target = mapping.get(name, mapping.get(str(number)))
    if target is None and name in label_names and name not in not_annotated:
        return name
    return target
