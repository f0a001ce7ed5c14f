"""TensorBoard events of a run, under ``tensorboard/`` in its folder."""

import logging
from pathlib import Path
from typing import final

from common.events import fields_of
from server.journal import ClosedRound, Journal


@final
class CurveWriter(logging.Handler):
    """Adds a round to the curves whenever the hub closes one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        """Write the round that was just closed."""
        if record.getMessage() == "round_closed":
            number = int(fields_of(record)["round"])
            closed = Journal(self._folder).closed_rounds()[number - 1]
            try:
                write_curves(self._folder, closed, fields_of(record)["metric"])
            except OSError:  # curves are a convenience; the run has what it needs
                self.handleError(record)


def write_curves(folder: Path, closed: ClosedRound, metric: float | None) -> None:
    """Add one closed round; one written before by a run that was killed is replaced."""
    from tensorboardX import SummaryWriter

    name = f".round-{closed.number:05d}"
    target = folder / "tensorboard"
    for old in target.glob(f"events*{name}"):
        old.unlink()
    with SummaryWriter(str(target), filename_suffix=name) as writer:
        for accepted in closed.accepted:
            report = accepted.report
            writer.add_scalar(f"loss/{report.site}", report.loss, closed.number)
            writer.add_scalar(f"seconds/{report.site}", accepted.seconds, closed.number)
            for s in report.scores:
                tag = f"{s.metric}/{s.modality}/{s.label}/{report.site}"
                writer.add_scalar(tag, s.value, closed.number - 1)
        if metric is not None:
            writer.add_scalar("validation/mean_dice", metric, closed.number - 1)
