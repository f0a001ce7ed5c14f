"""A site's profile: its datasets and its machine, as its own people wrote them down.

Never leaves the site.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from client.data.description import Description, read_description, study_label
from common.catalogue import nearest, unknown
from common.errors import DatasetError, InputError, ProfileError
from common.messages import SITE_NAME
from common.study import Study
from common.study.typed import KeyPath, Source, as_typed, read_yaml

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
LARGEST_PARTS = 10_000
Problem = tuple[KeyPath, str]


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """One dataset of a site.

    Attributes:
        folder: Where ``dataset.json`` is; relative to the profile's file. ``${NAME}`` stands
            for an environment variable.
        modality: The study's name of the modality, e.g. ``ct``.
        labels: The dataset's label name, or its id as text, to the study's label; labels whose
            names are equal in both need not be listed.
        not_annotated: Labels of the study that nobody drew in this dataset.
        part: ``2/4``: only the people who fall in the second of four parts, to make several
            simulated sites from one folder; all people if empty.
    """

    folder: str
    modality: str
    labels: dict[str, str] = field(default_factory=dict)
    not_annotated: tuple[str, ...] = ()
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a site has.

    Attributes:
        name: The site's name in logs and reports.
        datasets: At least one.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Of the processor, for training; 0 leaves the choice to torch.
        predictions: Held-out cases of which pictures are made, for a simulation's report.
        checkpoint_seconds: Time between checkpoints within a round, in a deployment; 0 for
            none. A worker that was ended in mid-training goes on from the newest.
    """

    name: str
    datasets: tuple[DatasetEntry, ...]
    device: str = "auto"
    threads: int = 0
    predictions: int = 3
    checkpoint_seconds: float = 60.0


def load_profile(path: Path) -> Profile:
    """Read and check a profile; its folders become relative to nothing but the profile's file.

    Raises:
        ProfileError: With every problem of the file.
    """
    try:
        plain, source = read_yaml(path)
    except InputError as error:
        raise ProfileError([str(error)]) from error
    if not isinstance(plain, dict):
        raise ProfileError([source.problem((), "a profile is a mapping: name, datasets, ...")])
    profile, problems = as_typed(Profile, plain)
    if profile is not None:
        problems = [*problems, *_value_problems(profile)]
    if profile is None or problems:
        raise ProfileError([source.problem(where, what) for where, what in problems])
    entries = tuple(
        replace(entry, folder=str(path.parent / os.path.expandvars(entry.folder)))
        for entry in profile.datasets
    )
    return replace(profile, datasets=entries)


def part_of(text: str) -> tuple[int, int] | None:
    """Return ``(2, 4)`` for ``2/4``, or None if the text is no part."""
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    if found is None:
        return None
    which, parts = int(found[1]), int(found[2])
    return (which, parts) if 1 <= which <= parts <= LARGEST_PARTS else None


def _value_problems(profile: Profile) -> Iterator[Problem]:
    if not SITE_NAME.fullmatch(profile.name):
        rule = "expected letters, digits, - _ and ., a letter or digit first, at most 64"
        yield ("name",), f"{profile.name!r} is no usable name; {rule}"
    if not profile.datasets:
        yield ("datasets",), "is empty; expected at least one folder with its modality"
    if not DEVICE.fullmatch(profile.device):
        hint = nearest(profile.device, ("auto", "cpu", "cuda", "cuda:0"))
        yield ("device",), f"is {profile.device!r}, expected auto, cpu, cuda or cuda:N{hint}"
    highest = {"threads": 1024, "predictions": 1_000_000, "checkpoint_seconds": 86_400}
    for key, high in highest.items():
        value = getattr(profile, key)
        if not 0 <= value <= high:
            yield (key,), f"is {value}, expected 0 to {high:g}"
    for i, entry in enumerate(profile.datasets):
        if not entry.folder:
            yield ("datasets", i, "folder"), "is empty; expected the dataset's folder"
        if entry.part and part_of(entry.part) is None:
            yield (
                ("datasets", i, "part"),
                f"is {entry.part!r}, expected e.g. 2/4 for the second of four parts",
            )


def check_profile(profile: Profile, study: Study, source_name: str) -> list[str]:
    """Return everything that keeps a profile from taking part in a study.

    Args:
        profile: As :func:`load_profile` returns it.
        study: The study.
        source_name: The profile's file as the person gave it; begins every sentence.

    Returns:
        One sentence a problem; empty if the profile fits.
    """
    source = Source(source_name, {})
    problems: list[Problem] = []
    for i, entry in enumerate(profile.datasets):
        where: KeyPath = ("datasets", i)
        problems += [((*where, *path), what) for path, what in _entry_problems(entry, study)]
    return [source.problem(where, what) for where, what in problems]


def _entry_problems(entry: DatasetEntry, study: Study) -> Iterator[Problem]:
    if entry.modality not in study.modalities:
        yield ("modality",), f"{entry.modality!r} {unknown(entry.modality, study.modalities)}"
    for key, target in entry.labels.items():
        if target not in study.label_names:
            yield ("labels", key), f"{target!r} {unknown(target, study.label_names)}"
        elif target in entry.not_annotated:
            yield ("labels", key), f"{target} is mapped and also in not_annotated; drop one"
    for i, name in enumerate(entry.not_annotated):
        if name not in study.label_names:
            yield ("not_annotated", i), f"{name!r} {unknown(name, study.label_names)}"
    try:
        description = read_description(Path(entry.folder))
    except DatasetError as error:
        yield ("folder",), str(error)
        return
    yield from _fit_problems(entry, study, description)


def _fit_problems(entry: DatasetEntry, study: Study, found: Description) -> Iterator[Problem]:
    if found.channels != study.channels:
        yield (
            ("folder",),
            f"has {found.channels} image channels, but the study has {study.channels}",
        )
    ids = {str(number) for number in found.labels.values()}
    for key in entry.labels:
        if key not in found.labels and key not in ids:
            yield ("labels", key), f"dataset.json: {key!r} {unknown(key, found.labels)}"
    mapped = {
        study_label(
            name,
            number,
            mapping=entry.labels,
            label_names=study.label_names,
            not_annotated=entry.not_annotated,
        )
        for name, number in found.labels.items()
    }
    for name in study.label_names:
        if name not in mapped and name not in entry.not_annotated:
            known = f"{', '.join(found.labels)}{nearest(name, found.labels)}"
            what = f"nothing stands for the study's label {name}"
            cure = f"map a label of dataset.json to it or put it in not_annotated ({known})"
            yield ("labels",), f"{what}; {cure}"
