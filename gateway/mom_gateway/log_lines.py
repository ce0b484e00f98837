"""Structured log lines, for people or for machines, without secrets.

Facts of a line go in ``extra``: ``log.info("serving", extra={"url": url})``. Human lines end with
``key=value`` pairs, JSON lines carry them as members.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

LOG_FORMATS: Final = ("human", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "color_message",
}
_TOKEN: Final = re.compile(r"(?i)(bearer\s+|mom_[0-9a-f]{16}_)[^\s\"',]+")


def configure_logging(log_format: str, level: str) -> None:
    """Send the process's log to standard error in one of LOG_FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=log_format == "json"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Its lines about starting and stopping say nothing that ours do not.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


class LineFormatter(logging.Formatter):
    """Time, level, logger, message, then the line's facts."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        time = moment.replace("+00:00", "Z")
        facts = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            line: dict[str, Any] = {
                "time": time,
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            } | facts
            if trace:
                line["exception"] = trace
            return redact(msgspec.json.encode(line, enc_hook=str).decode())
        shown = "".join(f" {name}={value}" for name, value in facts.items())
        text = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}{shown}"
        return redact(f"{text}\n{trace}" if trace else text)


def redact(text: str) -> str:
    """The text with tokens blotted out."""
    return _TOKEN.sub(r"\1***", text)
