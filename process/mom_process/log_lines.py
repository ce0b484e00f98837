"""Structured log lines, for people or for machines, without secrets.

Everything goes through the standard library's logging. Facts of a line go in ``extra``:
``log.info("registered", extra={"node_id": "a"})``. Human lines end with ``key=value`` pairs; JSON
lines carry them as members. Tokens and passwords in URLs are blotted out in either.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

LOG_FORMATS: Final = ("human", "json")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

# Its lines about starting and stopping say nothing that ours do not.
_QUIET: Final = {"uvicorn.error": logging.WARNING}
_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "color_message",  # Of uvicorn: the message again.
}
_SECRETS: Final = (
    # "Bearer ..." of a header, the secret of one of our tokens wherever it stands, and a password
    # in a URL such as redis://user:password@host.
    (re.compile(r"(?i)(bearer\s+)[^\s\"',]+"), r"\1***"),
    (re.compile(r"(mom_[0-9a-f]{16}_)[0-9a-f]{64}"), r"\1***"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+@"), r"\1***@"),
)


def redact(text: str) -> str:
    """The text with tokens and passwords blotted out."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def configure_logging(
    log_format: str = "human",
    level: str = "info",
    stream: TextIO | None = None,
    quiet: Mapping[str, int] = _QUIET,
) -> None:
    """Send the process's log to ``stream`` (standard error) in one of LOG_FORMATS.

    ``quiet`` are loggers of libraries and their lowest level.
    """
    assert log_format in LOG_FORMATS, "an unknown log format"
    assert level in LOG_LEVELS, "an unknown log level"
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name, lowest in quiet.items():
        logging.getLogger(name).setLevel(lowest)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the line's facts."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | _facts_of(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(msgspec.json.encode(line, enc_hook=str).decode())


class HumanFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {key}={value}" for key, value in _facts_of(record).items())
        name = record.name.removeprefix("mom_")
        line = f"{_time_of(record)} {record.levelname:<7} {name}: {record.getMessage()}{facts}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return redact(line)


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _facts_of(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
