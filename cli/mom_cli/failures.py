"""How a command ends: exit codes that scripts can trust, and errors as one clear sentence."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mom_core.errors import MomError


class ExitCode(IntEnum):
    """The exit codes of every command. They are listed in ``mom --help``."""

    OK = 0
    FAILED = 1
    """Refused by MOM, or a part of the work failed."""
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    """No server answers, or the cluster can't do it now: the same command may succeed later."""
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    """Who read the output closed it, as `head` does. The same as a shell's own tools."""


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 no such topic, queue, subscription "
    "or token; 4 not available now, try again; 130 interrupted."
)


class PartFailed(Exception):
    """A part of the work failed, and the command has already said which part."""

    def __init__(self, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def exit_code_of(error: MomError) -> ExitCode:
    """The exit code that stands for an error."""
    from mom_core.errors import ErrorCode

    if error.code is ErrorCode.NOT_FOUND:
        return ExitCode.NOT_FOUND
    return ExitCode.UNAVAILABLE if error.retriable else ExitCode.FAILED


def error_document(error: MomError) -> dict[str, Any]:
    """The machine-readable form of an error; members without a value are left out."""
    document: dict[str, Any] = {
        "code": error.code.value,
        "message": error.message,
        "retriable": error.retriable,
    }
    if error.field:
        document["field"] = error.field
    if error.retry_after_ms:
        document["retry_after_ms"] = error.retry_after_ms
    if error.details:
        document["details"] = error.details
    return document


def report(message: str, document: dict[str, Any], as_json: bool) -> None:
    """Say on standard error what went wrong."""
    if as_json:
        import json

        click.echo(json.dumps({"error": document}, ensure_ascii=False), err=True)
    else:
        click.echo(f"mom: {message}", err=True)
