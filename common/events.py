"""What happens, as named events: to the log as JSON lines, to the screen as progress.

Events go through Python's logging, so whoever runs a side decides where they end; nothing here
prints.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

HUB = logging.getLogger("fedseg.hub")
SITE = logging.getLogger("fedseg.site")


def emit(logger: logging.Logger, event: str, **fields: Any) -> None:
    """Log one event with its fields."""
    logger.info(event, extra={"fields": fields})


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of an event, empty for other log lines."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


class JsonLines(logging.FileHandler):
    """Writes each event as one JSON line with its time (seconds since 1970, UTC)."""

    def __init__(self, path: Path, leave_out: frozenset[str] = frozenset({"step"})) -> None:
        super().__init__(path, encoding="utf-8")
        self._leave_out = leave_out

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event, unless it is of a kind that would flood the file."""
        if record.getMessage() not in self._leave_out:
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {"time": round(time.time(), 3), "who": record.name, "event": record.getMessage()}
        if record.exc_info:
            line["traceback"] = logging.Formatter().formatException(record.exc_info)
        return json.dumps(line | fields_of(record), default=str)
