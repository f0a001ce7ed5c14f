"""Whole volumes through the network, and what came of them in numbers."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from client.data.preprocessing import PreparedCase, restore
from common.files import write_text
from common.messages import Difference, Score
from common.metrics import LabelScore, dice_of_labels, score_label
from common.modality.bank import set_modality
from common.seeds import generator
from common.statistics import bootstrap_mean_interval
from common.study.study import Study

MEASURES = ("dice", "hd95_mm", "assd_mm", "volume_difference", "voe")
FEDERATED, ALONE = "federated", "alone"


@dataclass(frozen=True, kw_only=True)
class CaseScore:
    """One label of one held-out case under one model; stays at the site."""

    case: str
    modality: str
    label: str
    model: str
    score: LabelScore


@torch.no_grad()
def infer(
    network: nn.Module, image: np.ndarray, modality: str, study: Study, device: torch.device
) -> np.ndarray:
    """Return the class scores of one image.

    Args:
        network: Plain or with banks.
        image: (C, *space), preprocessed.
        modality: Chooses the normalisation.
        study: Patch and overlap of the sliding window.
        device: Where the network is.

    Returns:
        Logits (K, *space), float32.
    """
    network.eval()
    set_modality(network, modality)
    mixed = study.training.mixed_precision and device.type == "cuda"
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
        scores = sliding_window_inference(
            torch.from_numpy(image)[None].to(device),
            study.training.patch,
            study.training.batch,
            network,
            overlap=study.evaluation.overlap,
            mode="gaussian",
        )
    result: np.ndarray = scores[0].float().cpu().numpy()
    return result


def validate(
    network: nn.Module, cases: Iterable[PreparedCase], study: Study, device: torch.device
) -> tuple[Score, ...]:
    """Return the mean Dice by modality and label, on the study's grid."""
    found: dict[tuple[str, str], list[float]] = {}
    for case in cases:
        if case.label is None:
            continue
        prediction = infer(network, case.image, case.files.modality, study, device).argmax(0)
        for index, dice in dice_of_labels(prediction, case.label, case.files.annotated).items():
            key = (case.files.modality, study.classes[index])
            found.setdefault(key, []).append(dice)
    return tuple(
        _mean_score(modality, label, "dice", values)
        for (modality, label), values in sorted(found.items())
    )


def _mean_score(modality: str, label: str, metric: str, values: Sequence[float]) -> Score:
    real = [v for v in values if not math.isnan(v)]
    mean = math.fsum(real) / len(real) if real else math.nan
    return Score(modality=modality, label=label, metric=metric, value=mean, cases=len(real))


def predict_label(
    network: nn.Module, case: PreparedCase, study: Study, device: torch.device
) -> np.ndarray:
    """Return the label map of a case on its original grid, canonical axes."""
    return restore(
        infer(network, case.image, case.files.modality, study, device), case.geometry
    )


def score_case(
    prediction: np.ndarray, case: PreparedCase, study: Study, model: str
) -> list[CaseScore]:
    """Measure every annotated label of a case on its original grid."""
    spacing = case.geometry.canonical_spacing_mm[: study.dimensions]
    if case.reference is None:
        return []
    return [
        CaseScore(
            case=case.files.name,
            modality=case.files.modality,
            label=study.classes[index],
            model=model,
            score=score_label(prediction == index, case.reference == index, spacing),
        )
        for index in case.files.annotated
    ]


def summarise(scores: Iterable[CaseScore], model: str) -> tuple[Score, ...]:
    """Return means over cases by modality and label, and the counts of missed structures."""
    groups: dict[tuple[str, str], list[LabelScore]] = {}
    for item in scores:
        if item.model == model:
            groups.setdefault((item.modality, item.label), []).append(item.score)
    found = []
    for (modality, label), held in sorted(groups.items()):
        for metric in MEASURES:
            values = [getattr(s, metric) for s in held if not s.absent]
            found.append(_mean_score(modality, label, metric, values))
        present = [s for s in held if not s.absent]
        found.append(
            Score(
                modality=modality,
                label=label,
                metric="missed",
                cases=len(present),
                value=float(sum(s.missed for s in present)),
            )
        )
    return tuple(found)


def differences(scores: Sequence[CaseScore], study: Study, site: str) -> tuple[Difference, ...]:
    """Pair the two models case by case: mean difference of Dice with a 95 % interval."""
    pairs: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for item in scores:
        if not math.isnan(item.score.dice):
            by_case = pairs.setdefault((item.modality, item.label), {})
            by_case.setdefault(item.case, {})[item.model] = item.score.dice
    found = []
    means: dict[str, dict[str, list[float]]] = {}
    for (modality, label), by_case in sorted(pairs.items()):
        changes = {
            c: d[FEDERATED] - d[ALONE]
            for c, d in sorted(by_case.items())
            if set(d) == {FEDERATED, ALONE}
        }
        for case, change in changes.items():
            means.setdefault(modality, {}).setdefault(case, []).append(change)
        if changes:
            found.append(_difference(modality, label, list(changes.values()), study, site))
    for modality, by_case_changes in sorted(means.items()):
        values = [sum(changes) / len(changes) for changes in by_case_changes.values()]
        found.append(_difference(modality, "mean", values, study, site))
    return tuple(found)


def _difference(
    modality: str, label: str, values: Sequence[float], study: Study, site: str
) -> Difference:
    rng = generator(study.seed, "bootstrap", site, modality, label)
    low, high = bootstrap_mean_interval(np.asarray(values), rng=rng)
    return Difference(
        modality=modality,
        label=label,
        mean=math.fsum(values) / len(values),
        low=low,
        high=high,
        cases=len(values),
    )


def write_case_scores(path: Path, scores: Iterable[CaseScore]) -> None:
    """Write the site's own table of cases; it never leaves the site."""
    columns = ["case", "modality", "label", "model", *(f.name for f in fields(LabelScore))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for item in scores:
        writer.writerow(
            {
                "case": item.case,
                "modality": item.modality,
                "label": item.label,
                "model": item.model,
                **asdict(item.score),
            }
        )
    write_text(path, text.getvalue())
