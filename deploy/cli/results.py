"""What a finished run comes to, as one short table."""

from pathlib import Path
from typing import Any

from rich.table import Table

from common.messages import Evaluation
from server.journal import Chosen, Journal
from server.selection import site_metric


def summary(folder: Path) -> Table:
    """Return a table of each site's held-out Dice, federated beside alone, worst first."""
    journal = Journal(folder)
    final: dict[str, Evaluation] = journal.read("final", dict[str, Evaluation]) or {}
    best: Chosen | None = journal.read("best", Chosen)
    when = f", weights of round {best.best.round}" if best and best.best else ""
    table = Table(title=f"Dice on held-out cases{when}", title_justify="left")
    for column in (
        "site",
        "modality",
        "federated",
        "alone",
        "difference",
        "95 % interval",
        "cases",
    ):
        table.add_column(column, justify="left" if column in ("site", "modality") else "right")
    rows = [
        (d.mean, site, d.modality, e, d)
        for site, e in final.items()
        for d in e.differences
        if d.label == "mean"
    ]
    for _, site, modality, evaluation, d in sorted(rows, key=lambda row: row[:3]):
        table.add_row(
            site,
            modality,
            _dice(evaluation.federated, modality),
            _dice(evaluation.alone, modality),
            f"{d.mean:+.3f}",
            f"{d.low:+.3f} to {d.high:+.3f}",
            str(d.cases),
        )
    if not rows:
        for site, evaluation in sorted(final.items()):
            for modality in sorted({s.modality for s in evaluation.federated}):
                held = [s for s in evaluation.federated if s.modality == modality]
                cases = max((s.cases for s in held), default=0)
                table.add_row(site, modality, _dice(held, modality), "", "", "", str(cases))
    return table


def _dice(scores: Any, modality: str) -> str:
    return f"{site_metric([s for s in scores if s.modality == modality]):.3f}"
