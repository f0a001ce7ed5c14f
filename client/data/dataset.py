"""The cases of a dataset folder: which files, of whom, with which labels. Opens no image.

nnU-Net's files are found by their names; links in ``imagesTr`` are the site's own doing and are
followed. The Decathlon's ``dataset.json`` names paths, and such text comes with the download:
a path that leaves the folder is refused.
"""

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from client.data.description import Description, read_description, study_label
from client.profile import DatasetEntry, part_of
from common.catalogue import unknown
from common.errors import DatasetError
from common.study import Study

CASES_FILE = "cases.tsv"
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class CaseFiles:
    """One case as files.

    Attributes:
        name: Unique within its dataset.
        subject: The person; the same name in two datasets is the same person.
        modality: The study's name of it.
        images: One file a channel, or one file that holds all channels in its last axis.
        label: The label map, if there is one.
        ids: Every label id that the dataset knows, with the study's class index that it
            becomes; 0, the background, where the study has no such label.
        annotated: The study's class indices, from 1, that were drawn in this dataset.
        split: ``train``, ``validation`` or ``test`` where the dataset fixes it.
    """

    name: str
    subject: str
    modality: str
    images: tuple[Path, ...]
    label: Path | None
    ids: tuple[tuple[int, int], ...]
    annotated: tuple[int, ...]
    split: str | None


def list_cases(entry: DatasetEntry, study: Study) -> list[CaseFiles]:
    """List the cases of a dataset, in the order of their names.

    A case whose label file is absent is listed without label; one whose image file is absent
    is listed as it should be, and reading it says what is missing.

    Raises:
        DatasetError: If the folder cannot be used at all.
    """
    folder = Path(entry.folder)
    description = read_description(folder)
    classes = _classes(description, entry, study)
    people = _read_people(folder)
    cases: dict[str, CaseFiles] = {}
    for name, images, label in _files(folder, description):
        if name in cases:
            raise DatasetError(f"{folder}: has two cases called {name}; rename one")
        subject, split = _person(folder, name, people)
        cases[name] = CaseFiles(
            name=name,
            subject=subject,
            modality=entry.modality,
            images=images,
            label=label if label is not None and label.exists() else None,
            ids=tuple(sorted(classes.items())),
            annotated=tuple(sorted({index for index in classes.values() if index})),
            split=split,
        )
    if not cases:
        raise DatasetError(f"{folder}: has no case; expected {_expected(description)}")
    return _in_part([cases[name] for name in sorted(cases)], entry)


def _classes(description: Description, entry: DatasetEntry, study: Study) -> dict[int, int]:
    names = study.label_names
    classes = {0: 0}
    for name, number in description.labels.items():
        target = study_label(
            name,
            number,
            mapping=entry.labels,
            label_names=names,
            not_annotated=entry.not_annotated,
        )
        classes[number] = names.index(target) + 1 if target in names else 0
    return classes


def _expected(description: Description) -> str:
    if description.training is None:
        return f"images named imagesTr/<case>_0000{description.file_ending}"
    return "at least one entry in 'training' of dataset.json"


def _files(
    folder: Path, description: Description
) -> Iterator[tuple[str, tuple[Path, ...], Path | None]]:
    if description.training is not None:
        for image, label in description.training:
            path = _inside(folder, image)
            yield _stem(path.name), (path,), None if label is None else _inside(folder, label)
        return
    ending = description.file_ending
    for name in _nnunet_names(folder, description):
        images = (f"{name}_{channel:04d}{ending}" for channel in range(description.channels))
        yield (
            name,
            tuple(folder / "imagesTr" / image for image in images),
            folder / "labelsTr" / f"{name}{ending}",
        )


def _nnunet_names(folder: Path, description: Description) -> list[str]:
    pattern = re.compile(r"([^.].*)_(\d{4})" + re.escape(description.file_ending))
    names: set[str] = set()
    try:
        found = sorted(path.name for path in (folder / "imagesTr").iterdir())
    except FileNotFoundError:
        found = []
    except OSError as error:
        raise DatasetError(f"{folder}: imagesTr cannot be read: {error.strerror}") from error
    for file_name in found:
        match = pattern.fullmatch(file_name)
        if match is None:
            continue
        if int(match[2]) >= description.channels:
            raise DatasetError(
                f"{folder}: {file_name} is channel {int(match[2])}, counted from 0, but "
                f"dataset.json names only {description.channels}"
            )
        names.add(match[1])
    return sorted(names)


def _stem(file_name: str) -> str:
    return file_name.removesuffix(".gz").removesuffix(".nii")


def _inside(folder: Path, text: str) -> Path:
    path = folder / text
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(f"{folder}: dataset.json names {text!r}, which leaves the folder")
    return path


def _read_people(folder: Path) -> dict[str, tuple[str, str]] | None:
    """Return subject and split (or an empty text) by case, or None without ``cases.tsv``."""
    path = folder / CASES_FILE
    if not path.exists():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = list(reader)
            columns = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{folder}: {CASES_FILE} cannot be read: {error}") from error
    for column in ("case", "subject"):
        if column not in columns:
            raise DatasetError(f"{folder}: {CASES_FILE} has no column {column!r}")
    people: dict[str, tuple[str, str]] = {}
    for row in rows:
        case = (row["case"] or "").strip()
        if case in people:
            raise DatasetError(f"{folder}: {CASES_FILE} has two lines for case {case}")
        people[case] = (row["subject"] or "").strip(), (row.get("split") or "").strip()
    return people


def _person(
    folder: Path, name: str, people: dict[str, tuple[str, str]] | None
) -> tuple[str, str | None]:
    if people is None:
        return name, None
    subject, split = people.get(name, ("", ""))
    if not subject:
        # Guessing that the case is its own person could put one person on both sides.
        raise DatasetError(f"{folder}: {CASES_FILE} names no subject for case {name}; add it")
    if split and split not in PARTS:
        raise DatasetError(
            f"{folder}: {CASES_FILE}: split {split!r} of case {name} {unknown(split, PARTS)}"
        )
    return subject, split or None


def _in_part(cases: list[CaseFiles], entry: DatasetEntry) -> list[CaseFiles]:
    part = part_of(entry.part)
    if part is None:
        return cases
    which, parts = part
    ranks = {subject: i for i, subject in enumerate(_shuffled(case.subject for case in cases))}
    kept = [case for case in cases if ranks[case.subject] % parts == which - 1]
    if not kept:
        raise DatasetError(
            f"{entry.folder}: part {entry.part} is empty: {len(ranks)} people are too few for "
            f"{parts} parts"
        )
    return kept


def _shuffled(subjects: Iterable[str]) -> list[str]:
    """Return each person once, in the order of a hash of the name: fixed, yet arbitrary."""
    return sorted(
        set(subjects), key=lambda subject: (hashlib.sha256(subject.encode()).digest(), subject)
    )
