"""Types of options: durations, sizes, rates and positions, read as :mod:`mom_core` reads them.

click names the option in an error, so that the texts here begin without a field.

A function as an option's type is click's own way; its name stands in the help.
"""

from __future__ import annotations

from typing import Any, Final

import click

from mom_core.errors import InvalidArgumentError
from mom_core.quantities import parse_bytes, parse_duration_ms, parse_rate_per_s
from mom_core.topics import ZONE_HINT, lacks_zone, parse_start

POSITION_HELP: Final = "earliest, latest, offset:N, timestamp:MS or timestamp:2026-01-31T08:00:00Z"


class Within(click.IntRange):
    """A whole number between bounds, whose errors say so."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Raises click.BadParameter."""
        try:
            int(value)
        except ValueError:
            highest = "" if self.max is None else f" to {self.max}"
            allowed = f"{self.min}{highest}" if highest else f"{self.min} or more"
            self.fail(f"{value!r} is no whole number; {allowed} is allowed", param, ctx)
        return super().convert(value, param, ctx)


def duration(value: object) -> int:
    """Milliseconds of a duration such as 168h or 30s. Raises click.BadParameter."""
    try:
        return parse_duration_ms(value, "")
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message.strip()) from None


def size(value: object) -> int:
    """Bytes of a size such as 10Gi or 512Ki. Raises click.BadParameter."""
    try:
        return parse_bytes(value, "")
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message.strip()) from None


def moment(value: object) -> int:
    """Milliseconds since the Unix epoch of a time. Raises click.BadParameter."""
    try:
        return parse_start(f"timestamp:{value}", "").value
    except InvalidArgumentError:
        if lacks_zone(str(value)):
            raise click.BadParameter(f"{value} {ZONE_HINT}") from None
        raise click.BadParameter(
            f"{value} is no time: write 2026-01-31T08:00:00Z, or milliseconds since the Unix epoch"
        ) from None


def rate(value: object) -> float:
    """Messages a second of a rate such as 100/s or 6000/m. Raises click.BadParameter."""
    try:
        return parse_rate_per_s(value, "")
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message.strip()) from None


def position(value: object) -> str:
    """The normal form of a start position. Raises click.BadParameter."""
    try:
        return str(parse_start(value, ""))
    except InvalidArgumentError as error:
        raise click.BadParameter(error.message.strip()) from None
