"""A study file into a :class:`~common.study.study.Study`, or every reason why not."""

import json
import math
import re
from pathlib import Path
from typing import Any

from common.errors import InputError, StudyError
from common.study.composable import LARGEST_SIDE
from common.study.losses import class_problems
from common.study.study import BACKGROUND, Study, Training
from common.study.typed import KeyPath, as_typed, parse_yaml, read_yaml

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
MOST_TRIALS = 10_000
Problem = tuple[KeyPath, str]


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Raises:
        StudyError: With every problem of the file.
    """
    try:
        plain, source = read_yaml(path)
    except InputError as error:
        raise StudyError([str(error)]) from error
    study, problems = _study(plain)
    if study is None or problems:
        raise StudyError([source.problem(where, what) for where, what in problems])
    return study


def parse_study(text: str, name: str = "study") -> Study:
    """Read and check a study from YAML or JSON text; see :func:`load_study`."""
    try:
        plain, source = parse_yaml(text, name)
    except InputError as error:
        raise StudyError([str(error)]) from error
    study, problems = _study(plain)
    if study is None or problems:
        raise StudyError([source.problem(where, what) for where, what in problems])
    return study


def _study(plain: Any) -> tuple[Study | None, list[Problem]]:
    if not isinstance(plain, dict):
        return None, [((), "a study is a mapping of keys such as name, labels, modalities")]
    study, problems = as_typed(Study, _long_form(plain))
    return study, problems or (study_problems(study) if study else [])


def _long_form(plain: dict[str, Any]) -> dict[str, Any]:
    """Write out the short forms: a label or a choice given as its bare name."""
    long: dict[str, Any] = json.loads(json.dumps(plain))
    labels = long.get("labels")
    if isinstance(labels, list):
        long["labels"] = [{"name": x} if isinstance(x, str) else x for x in labels]
    federation, training = long.get("federation"), long.setdefault("training", {})
    for place, key in (
        (long, "network"),
        (long, "loss"),
        (federation, "method"),
        (training, "scheme"),
    ):
        if isinstance(place, dict) and isinstance(place.get(key), str):
            place[key] = {"name": place[key]}
    terms = long["loss"].get("terms") if isinstance(long.get("loss"), dict) else None
    for term in terms if isinstance(terms, list) else ():
        if isinstance(term, dict) and isinstance(term.get("loss"), str):
            term["loss"] = {"name": term["loss"]}
    if long.get("dimensions") == 2 and isinstance(training, dict):  # noqa: PLR2004
        training.setdefault("patch", [128, 128])
    return long


def study_problems(study: Study) -> list[Problem]:
    """Return every impossible value or combination of a study that has the right types."""
    return [
        *_vocabulary_problems(study),
        *_modality_problems(study),
        *_patch_problems(study),
        *_training_problems(study.training),
        *_scheme_problems(study),
        *_federation_problems(study),
        *_augmentation_problems(study),
        *_network_problems(study),
        *_loss_problems(study),
        *[
            (("federation", "method", w), what)
            for w, what in study.federation.method.problems()
        ],
    ]


def _vocabulary_problems(study: Study) -> list[Problem]:
    problems: list[Problem] = []
    if not NAME.fullmatch(study.name):
        problems.append((("name",), _name_rule(study.name)))
    if not study.labels:
        problems.append((("labels",), "is empty; expected at least one structure"))
    seen: set[str] = set()
    for i, label in enumerate(study.labels):
        if not NAME.fullmatch(label.name):
            problems.append((("labels", i), _name_rule(label.name)))
        if label.name == BACKGROUND:
            problems.append((("labels", i), f"{BACKGROUND} is always there and is not listed"))
        if label.name in seen:
            problems.append((("labels", i), f"{label.name} is listed twice"))
        seen.add(label.name)
    return problems


def _name_rule(name: str) -> str:
    return (
        f"{name!r} is no usable name; expected lower-case letters, digits, - and _, "
        "a letter first, at most 40"
    )


def _modality_problems(study: Study) -> list[Problem]:
    problems: list[Problem] = []
    if not study.modalities:
        problems.append((("modalities",), "is empty; expected at least one, e.g. ct or mr"))
    for name, modality in study.modalities.items():
        where = ("modalities", name)
        if not NAME.fullmatch(name):
            problems.append((where, _name_rule(name)))
        if modality.intensity == "hounsfield" and modality.window is None:
            problems.append((where, "has no window; hounsfield needs one, e.g. [-160, 240]"))
        if modality.window is not None and modality.window[0] >= modality.window[1]:
            found = list(modality.window)
            problems.append(((*where, "window"), f"is {found}, expected the lower end first"))
    if study.channels < 1:
        problems.append((("channels",), f"is {study.channels}, expected 1 or more"))
    return problems


def _patch_problems(study: Study) -> list[Problem]:
    problems: list[Problem] = []
    patch, divisor = study.training.patch, study.network.divisor
    where = ("training", "patch")
    largest = study.network.largest_side(study.dimensions)
    if len(patch) != study.dimensions:
        problems.append(
            (
                where,
                f"has {len(patch)} numbers, expected {study.dimensions}, one for "
                "each dimension of the study",
            )
        )
    elif max(patch) > LARGEST_SIDE:
        problems.append((where, f"is {list(patch)}, expected sides of {LARGEST_SIDE} at most"))
    elif divisor > LARGEST_SIDE:
        what = f"halves the patch too often; it would need sides above {LARGEST_SIDE}"
        problems.append((("network", "strides"), what))
    elif divisor > 0 and any(side % divisor or side < 2 * divisor for side in patch):
        nearest = [max(2 * divisor, round(side / divisor) * divisor) for side in patch]
        fitting = [min(side, largest) for side in nearest]
        problems.append(
            (
                where,
                f"is {list(patch)}, but network {study.network.name} needs sides "
                f"that are multiples of {divisor}, at least {2 * divisor}; the nearest "
                f"that works is {fitting}",
            )
        )
    elif max(patch) > largest:
        what = (
            f"is {list(patch)}, but network {study.network.name} takes sides of {largest} at "
            f"most in {study.dimensions}-D: its maps are larger than the patch"
        )
        problems.append((where, what))
    spacing = study.spacing_mm
    if spacing is not None and len(spacing) != study.dimensions:
        problems.append(
            (("spacing_mm",), f"has {len(spacing)} numbers, expected {study.dimensions}")
        )
    if spacing is not None and any(not 0.01 <= step <= 100 for step in spacing):  # noqa: PLR2004
        problems.append((("spacing_mm",), f"is {list(spacing)}, expected 0.01 to 100 mm each"))
    return problems


def _network_problems(study: Study) -> list[Problem]:
    network = study.network
    problems: list[Problem] = [(("network", where), what) for where, what in network.problems()]
    if study.dimensions not in network.dimensions:
        has = " and ".join(f"{d}-D" for d in network.dimensions)
        what = f"{network.name} exists in {has} only, but the study is {study.dimensions}-D"
        problems.append((("network", "name"), what))
    return problems


def _loss_problems(study: Study) -> list[Problem]:
    found = study.loss.problems() + class_problems(study.loss, len(study.classes))
    return [(("loss", *_parts(where)), what) for where, what in found]


def _parts(where: str) -> KeyPath:
    """Split a place such as ``terms.0.weight`` into the parts of a YAML path."""
    return tuple(int(part) if part.isdecimal() else part for part in where.split("."))


def _training_problems(training: Training) -> list[Problem]:
    problems: list[Problem] = []
    for key, low, high in (
        ("steps", 0, 1_000_000),
        ("epochs", 0, 10_000),
        ("batch", 1, 4096),
        ("learning_rate", 0.0, 10.0),
        ("weight_decay", 0.0, 1.0),
        ("gradient_clip", 0.0, 1e6),
        ("foreground", 0.0, 1.0),
    ):
        value = getattr(training, key)
        if not low <= value <= high:
            problems.append((("training", key), f"is {value}, expected {low} to {high}"))
    if bool(training.steps) == bool(training.epochs):
        found = f"steps is {training.steps} and epochs is {training.epochs}"
        problems.append((("training",), f"{found}; expected exactly one of them above 0"))
    return problems


def _scheme_problems(study: Study) -> list[Problem]:
    scheme, patch = study.training.scheme, study.training.patch
    found = scheme.problems()
    if found:
        return [(("training", "scheme", where), what) for where, what in found]
    least = scheme.smallest_side
    if min(patch, default=least) >= least:
        return []
    step = max(study.network.divisor, 1)
    fitting = [math.ceil(max(side, least) / step) * step for side in patch]
    what = f"is {list(patch)}, but the critic of scheme {scheme.name} needs sides of {least} "
    if max(fitting) > study.network.largest_side(study.dimensions):
        what += "at least, which the network cannot take; give it fewer layers"
    else:
        what += f"at least; the nearest that works is {fitting}"
    return [(("training", "patch"), what)]


def _federation_problems(study: Study) -> list[Problem]:
    problems: list[Problem] = []
    for path, low, high in (
        (("federation", "rounds"), 1, 100_000),
        (("federation", "minimum_sites"), 1, 10_000),
        (("federation", "minimum_sites_per_modality"), 0, 10_000),
        (("federation", "answer_seconds"), 1.0, 1e7),
        (("federation", "retries"), 0, 100),
        (("federation", "largest_norm_ratio"), 0.0, 1e9),
        (("distillation", "weight"), 0.0, 100.0),
        (("distillation", "temperature"), 0.01, 100.0),
        (("distillation", "ramp_rounds"), 0, 100_000),
        (("evaluation", "validation"), 0.0, 0.9),
        (("evaluation", "test"), 0.0, 0.9),
        (("evaluation", "every"), 1, 100_000),
        (("evaluation", "overlap"), 0.0, 0.9),
        (("seed",), 0, 2**32 - 1),
    ):
        value: Any = study
        for part in path:
            value = getattr(value, part)
        if not low <= value <= high:
            problems.append((path, f"is {value}, expected {low} to {high}"))
    if study.search is not None and not 1 <= study.search.trials <= MOST_TRIALS:
        what = f"is {study.search.trials}, expected 1 to {MOST_TRIALS}"
        problems.append((("search", "trials"), what))
    if study.evaluation.validation + study.evaluation.test > 0.9:  # noqa: PLR2004
        problems.append(
            (
                ("evaluation",),
                "validation and test together keep more than 0.9 of "
                "the people; nothing is left to train on",
            )
        )
    return problems


def _augmentation_problems(study: Study) -> list[Problem]:
    problems: list[Problem] = []
    augmentation = study.augmentation
    for key, high in (
        ("probability", 1.0),
        ("rotation_degrees", 180.0),
        ("scale", 0.9),
        ("shift", 10.0),
        ("contrast", 0.9),
        ("noise", 10.0),
        ("gamma", 0.9),
    ):
        value = getattr(augmentation, key)
        if not 0 <= value <= high:
            problems.append((("augmentation", key), f"is {value}, expected 0 to {high}"))
    for axis in augmentation.flip_axes:
        where = ("augmentation", "flip_axes")
        if axis not in range(study.dimensions):
            problems.append((where, f"has axis {axis}, expected 0 to {study.dimensions - 1}"))
        if axis == 0 and study.has_sides:
            problems.append(
                (
                    where,
                    "has axis 0 (left-right), but the vocabulary has lateral "
                    "labels, which a flip would swap; take 0 out",
                )
            )
    return problems
