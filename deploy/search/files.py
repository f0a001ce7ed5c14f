"""What a search leaves: ``search.csv``, ``search.md`` and ``best-study.yaml``."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from common.files import write_text
from common.study.study import Study, as_plain
from deploy.search.front import front
from deploy.search.space import study_at
from deploy.search.trial import Trial

TABLE, PAGE, BEST = "search.csv", "search.md", "best-study.yaml"
MEGABYTE = 1e6


def headings(modalities: Sequence[str]) -> list[str]:
    """Return the headings of :func:`cells`."""
    dice = [f"Dice {modality}" for modality in modalities]
    return ["trial", "Dice", *dice, "parameters", "a round", "seconds", "choice"]


def cells(trial: Trial, modalities: Sequence[str]) -> list[str]:
    """Return a trained trial as a row for people."""
    found = trial.outcome
    if found is None:
        return [str(trial.number), *[""] * (len(modalities) + 4), trial.words]
    by = (found.by_modality.get(modality) for modality in modalities)
    return [
        str(trial.number),
        f"{found.dice:.3f}",
        *("" if dice is None else f"{dice:.3f}" for dice in by),
        f"{found.parameters:,}",
        f"{found.round_bytes / MEGABYTE:.2f} MB",
        f"{found.seconds:.0f}",
        trial.words,
    ]


def counts(trials: Sequence[Trial]) -> str:
    """Return how many trials ended how."""
    found = Counter(trial.state for trial in trials)
    return ", ".join(f"{number} {state}" for state, number in found.most_common())


def write_tables(folder: Path, study: Study, trials: Sequence[Trial], head: str) -> None:
    """Write all trials for programs and for people, each file whole or not at all."""
    write_text(folder / TABLE, _csv(study, trials))
    write_text(folder / PAGE, "\n".join(_page(study, trials, head)) + "\n")


def write_best(folder: Path, study: Study, trial: Trial, head: str) -> Path:
    """Write the study as given, with the choice of a trial; its rounds are the study's own."""
    best = study_at(study, trial.point)
    dice = f"{trial.outcome.dice:.4f}" if trial.outcome else "unknown"
    text = yaml.safe_dump(as_plain(best), sort_keys=False, allow_unicode=True, width=90)
    path = folder / BEST
    write_text(path, f"# {head}\n# Trial {trial.number}, validation Dice {dice} there.\n{text}")
    return path


def _csv(study: Study, trials: Sequence[Trial]) -> str:
    text = io.StringIO()
    names = sorted({name for trial in trials for name in trial.point})
    best = {trial.number for trial in front(trials)}
    writer = csv.writer(text, lineterminator="\n")
    dice = [f"dice_{modality}" for modality in study.modalities]
    writer.writerow(
        ["trial", "state", "front", "dice", *dice, "best_round", "parameters", "round_bytes",
         "seconds", *names, "why"]
    )  # fmt: skip
    for trial in trials:
        writer.writerow(
            [
                trial.number,
                trial.state,
                int(trial.number in best),
                *_numbers(trial, study),
                *(trial.point.get(name, "") for name in names),
                trial.why,
            ]
        )
    return text.getvalue()


def _numbers(trial: Trial, study: Study) -> list[str]:
    found = trial.outcome
    if found is None:
        return [""] * (len(study.modalities) + 5)
    by = (found.by_modality.get(modality) for modality in study.modalities)
    return [
        f"{found.dice:.6f}",
        *("" if dice is None else f"{dice:.6f}" for dice in by),
        str(found.best_round),
        str(found.parameters),
        str(found.round_bytes),
        f"{found.seconds:.2f}",
    ]


def _page(study: Study, trials: Sequence[Trial], head: str) -> Iterator[str]:
    modalities = list(study.modalities)
    best = front(trials)
    rest = [t for t in trials if t.state == "complete" and t not in best]
    yield f"# Search: {study.name}"
    yield ""
    yield f"{head} {counts(trials)}."
    spaces = [t for t in trials if t.state == "searched"]
    parts = (
        ("Front", best), ("Others that were trained to the end", rest),
        ("Spaces that were searched", spaces),
    )  # fmt: skip
    for title, rows in parts:
        if not rows:
            continue
        names = headings(modalities)
        yield from ("", f"## {title}", "", _row(names), _row(["---"] * len(names)))
        yield from (_row(cells(trial, modalities)) for trial in rows)
    left = [trial for trial in trials if trial.state not in ("complete", "searched")]
    if left:
        names = ["trial", "state", "why", "choice"]
        yield from ("", "## Not trained to the end", "", _row(names), _row(["---"] * 4))
        yield from (_row([str(t.number), t.state, t.why, t.words]) for t in left)


def _row(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
