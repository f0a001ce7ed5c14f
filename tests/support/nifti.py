"""Small datasets and studies, written where a test wants them."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.data.dataset import CaseFiles
from common.study import Evaluation, Label, Modality, Study

CT = Modality(intensity="hounsfield", window=(-160.0, 240.0))
MR = Modality(intensity="arbitrary")


def study_of(*labels, **changes):
    """Return a small 3-D study of CT and MR."""
    names = labels or ("liver", "spleen")
    return Study(
        name="small",
        labels=tuple(Label(name=name) for name in names),
        modalities={"ct": CT, "mr": MR},
        **changes,
    )


def evaluation_of(validation=0.25, test=0.25):
    return Evaluation(validation=validation, test=test)


def write_nifti(path, array, affine=None, **header):
    """Write one file as it would come from elsewhere; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.asarray(array), np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def random_image(shape, seed=0):
    return np.random.default_rng(seed).normal(100, 30, size=shape).astype(np.float32)


def box_label(shape, *, ids=(1,)):
    """Return a label map with one box for each id, side by side along the first axis."""
    label = np.zeros(shape, dtype=np.uint8)
    step = shape[0] // (len(ids) + 1)
    for i, number in enumerate(ids):
        inside = tuple(slice(side // 4, max(side // 4 + 1, side // 2)) for side in shape[1:])
        label[(slice(i * step, (i + 1) * step), *inside)] = number
    return label


def nnunet(folder, cases=("a", "b"), *, shape=(8, 7, 6), **changes):
    """Write a dataset in nnU-Net's layout; returns its folder."""
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        "file_ending": ".nii.gz",
        **changes,
    }
    ending = description["file_ending"]
    for i, case in enumerate(cases):
        for channel in range(len(description["channel_names"])):
            image = random_image(shape, seed=10 * i + channel)
            write_nifti(folder / "imagesTr" / f"{case}_{channel:04d}{ending}", image)
        write_nifti(folder / "labelsTr" / f"{case}{ending}", box_label(shape, ids=(1, 2)))
    return describe(folder, description)


def describe(folder, description):
    folder.mkdir(parents=True, exist_ok=True)
    text = description if isinstance(description, str) else json.dumps(description)
    (folder / "dataset.json").write_text(text)
    return folder


def decathlon(folder, cases=("a", "b"), *, shape=(8, 7, 6), channels=1, **changes):
    """Write a dataset in the Decathlon's layout; returns its folder."""
    entries = []
    for i, case in enumerate(cases):
        image, label = f"./imagesTr/{case}.nii.gz", f"./labelsTr/{case}.nii.gz"
        whole = shape if channels == 1 else (*shape, channels)
        write_nifti(folder / image, random_image(whole, seed=i))
        write_nifti(folder / label, box_label(shape, ids=(1, 2)))
        entries.append({"image": image, "label": label})
    description = {
        "modality": {str(i): f"channel {i}" for i in range(channels)},
        "labels": {"0": "background", "1": "liver", "2": "spleen"},
        "training": entries,
        "test": [],
        **changes,
    }
    return describe(folder, description)


def people(folder, *lines):
    """Write ``cases.tsv`` from lines with spaces where the file has tabs."""
    text = "\n".join(line.replace(" ", "\t") for line in lines)
    (folder / "cases.tsv").write_text(text + "\n")
    return folder


def case_of(images, label=None, **changes):
    """Return a case as files, without a dataset around it."""
    values = {
        "name": "a",
        "subject": "a",
        "modality": "mr",
        "images": tuple(images) if isinstance(images, (list, tuple)) else (images,),
        "label": label,
        "ids": ((0, 0), (1, 1), (2, 2)),
        "annotated": (1, 2),
        "split": None,
    }
    return CaseFiles(**{**values, **changes})


def real_data(name):
    """Return a folder of real cases, or skip the test."""
    root = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("FEDSEG_DATA", root.parent / "shared" / "data"))
    if not (data / name / "dataset.json").exists():
        pytest.skip(f"no real cases of {name}: set FEDSEG_DATA to the folder that has them")
    return data / name
