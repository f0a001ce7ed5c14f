"""The run's metrics as one tidy table, always the same as what the journal says.

Columns: round, site, modality, label, metric, value, cases, model. ``round`` is the round that
the scored weights closed; ``model`` is ``federated`` or ``alone``.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from common.files import write_text
from common.messages import Evaluation, Score
from server.journal import ClosedRound

COLUMNS = ("round", "site", "modality", "label", "metric", "value", "cases", "model")
Row = tuple[int, str, str, str, str, float, int, str]


def write_metrics(
    path: Path,
    rounds: Sequence[ClosedRound],
    last: Mapping[str, Evaluation],
    final: Mapping[str, Evaluation],
) -> None:
    """Write the table, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows_of(rounds, last, final))
    write_text(path, text.getvalue())


def rows_of(
    rounds: Sequence[ClosedRound],
    last: Mapping[str, Evaluation],
    final: Mapping[str, Evaluation],
) -> Iterator[Row]:
    """Yield the table's rows: validations by round, then the final test."""
    for closed in rounds:
        for accepted in closed.accepted:
            report = accepted.report
            yield (
                closed.number,
                report.site,
                "",
                "",
                "loss",
                report.loss,
                sum(report.cases.values()),
                "federated",
            )
            yield from _rows(closed.number - 1, report.site, report.scores, "federated", "")
    for site, evaluation in sorted(last.items()):
        yield from _rows(len(rounds), site, evaluation.federated, "federated", "")
    for site, evaluation in sorted(final.items()):
        for model, scores in (("federated", evaluation.federated), ("alone", evaluation.alone)):
            yield from _rows(evaluation.round, site, scores, model, "test_")
        for d in evaluation.differences:
            for metric, value in (
                ("difference", d.mean),
                ("difference_low", d.low),
                ("difference_high", d.high),
            ):
                yield (
                    evaluation.round,
                    site,
                    d.modality,
                    d.label,
                    f"test_dice_{metric}",
                    value,
                    d.cases,
                    "federated",
                )


def _rows(
    number: int, site: str, scores: Iterable[Score], model: str, prefix: str
) -> Iterator[Row]:
    for s in scores:
        yield number, site, s.modality, s.label, prefix + s.metric, s.value, s.cases, model
