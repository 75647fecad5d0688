"""What the pipeline says while it works: lines to read, or one JSON object per event.

A log call names its event and the numbers in it with `event`; the text formatter shows only the
sentence, the JSON formatter everything. Log collectors of clusters index the latter.
"""

import json
import logging
import socket
import sys
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

FORMATS = ("text", "json")
LOGGERS = ("cli", "pipeline", "cache")


def event(name: str, **values: Any) -> dict[str, Any]:
    """Return the `extra` of a log call: what happened, and with which numbers.

    Args:
        name: of the event, such as shard_done; the same for the same thing, whatever the sentence.
        values: what JSON can hold; units in the names (seconds, items_per_second).
    """
    return {"event": name, "values": values}


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, event, host, pid, the event's values, and the sentence."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a record that names no event is a `log`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
            # Of a worker on another node, if it was sent from there.
            "host": getattr(record, "host", None) or socket.gethostname(),
            "pid": record.process,
            **getattr(record, "values", {}),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _AboveBars(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes above a progress bar, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; a bar that is there moves down."""
        tqdm.write(self.format(record), file=self.stream)


def configure(log_format: str, *, level: int = logging.INFO) -> None:
    """Send what we log to stderr; of other libraries only errors.

    Args:
        log_format: one of FORMATS.
        level: least level of ours.
    """
    is_json = log_format == "json"
    is_terminal = sys.stderr.isatty() and not is_json
    handler = (_AboveBars if is_terminal else logging.StreamHandler)(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def is_json() -> bool:
    """Say whether stderr holds JSON, so that nothing else may be written there."""
    handlers = logging.getLogger("pipeline").handlers
    return any(isinstance(each.formatter, JsonFormatter) for each in handlers)


def is_bar_shown() -> bool:
    """Say whether somebody looks at stderr who would rather see a bar than lines."""
    return sys.stderr.isatty() and not is_json()
