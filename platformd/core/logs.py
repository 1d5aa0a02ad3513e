"""Log records on standard error: a line of text for people and journald, or a JSON object for programs."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal, TextIO

from platformd.core.clock import rfc3339


def configure_logging(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send the records of all loggers of this process to ``stream`` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{rfc3339(int(record.created * 1e9))} {record.levelname.lower():7} {record.name}: {record.getMessage()}"
        # One record is one line for journald and grep; continuation lines are indented.
        line = line.replace("\n", "\n    ")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": rfc3339(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)
