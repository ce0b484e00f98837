"""Asking before what can't be undone."""

from __future__ import annotations

import sys

import click


def yes_option() -> click.Option:
    """The option that answers beforehand."""
    return click.Option(["--yes"], is_flag=True, help="Do not ask; needed where nobody can answer.")


def check_can_ask(what: str, yes: bool) -> None:
    """Raise click.UsageError when there is nobody to ask and ``--yes`` was not given."""
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(
            f"this is to {what}, for ever, and there is no terminal to ask at: give --yes"
        )


def confirm(what: str, yes: bool) -> None:
    """Ask, unless ``--yes`` was given. Raises click.Abort for a no."""
    check_can_ask(what, yes)
    if not yes:
        click.confirm(f"{what}, for ever?", abort=True, err=True)
