"""Options for durations, sizes and positions, read as :mod:`mom_core.quantities` reads them."""

from __future__ import annotations

from typing import Any

import click

from mom_core.errors import InvalidArgumentError
from mom_core.quantities import parse_bytes, parse_duration_ms
from mom_core.topics import parse_start


class Duration(click.ParamType):
    """A duration such as 168h or 30s; milliseconds inside."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Milliseconds. Fails as wrong usage."""
        try:
            return parse_duration_ms(value, param.name or "duration" if param else "duration")
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)


class Size(click.ParamType):
    """A size such as 10Gi or 512Ki; bytes inside."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes. Fails as wrong usage."""
        try:
            return parse_bytes(value, param.name or "size" if param else "size")
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)


class Position(click.ParamType):
    """Where to begin: earliest, latest, offset:N or timestamp:T."""

    name = "position"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """The normal form. Fails as wrong usage."""
        try:
            return str(parse_start(value, param.opts[0] if param else "position"))
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)


DURATION = Duration()
SIZE = Size()
POSITION = Position()
POSITION_HELP = "earliest, latest, offset:N, timestamp:MILLISECONDS or timestamp:2026-01-31T08:00:00Z"
