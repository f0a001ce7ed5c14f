"""TensorBoard events of a run, under ``tensorboard/`` in its folder."""

import logging
import time
from collections.abc import Iterator
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
            closed = Journal(self._folder).closed_round(number)
            try:
                write_curves(self._folder, closed, fields_of(record)["metric"])
            except OSError:  # curves are a convenience; the run has what it needs
                self.handleError(record)


def write_curves(folder: Path, closed: ClosedRound, metric: float | None) -> None:
    """Write one closed round's file; one written before by a run that was killed is replaced.

    Records are written here and now: tensorboardX's own writer leaves that to a thread, which
    a Ctrl-C would catch at an unlucky moment.
    """
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter
    from tensorboardX.summary import scalar

    target = folder / "tensorboard"
    target.mkdir(exist_ok=True)
    path = target / f"events.out.tfevents.{closed.number:010d}.fedseg"
    path.unlink(missing_ok=True)
    now = time.time()
    events = [Event(wall_time=now, file_version="brain.Event:2")]
    events += [
        Event(wall_time=now, step=step, summary=scalar(tag, value))
        for tag, value, step in _points(closed, metric)
    ]
    writer = RecordWriter(str(path))
    for event in events:
        writer.write(event.SerializeToString())
    writer.close()


def _points(closed: ClosedRound, metric: float | None) -> Iterator[tuple[str, float, int]]:
    """Yield (tag, value, round); scores are those of the weights that came into the round."""
    for accepted in closed.accepted:
        report = accepted.report
        yield f"loss/{report.site}", report.loss, closed.number
        yield f"seconds/{report.site}", accepted.seconds, closed.number
        for s in report.scores:
            tag = f"{s.metric}/{s.modality}/{s.label}/{report.site}"
            yield tag, s.value, closed.number - 1
    if metric is not None:
        yield "validation/mean_dice", metric, closed.number - 1
