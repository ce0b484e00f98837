"""Options for how messages of a queue, or of a queue-mode subscription, are delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mom_cli.settings import duration, rate

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_ORDERINGS = ("priority", "fifo", "fair")


def delivery_options() -> list[click.Option]:
    """The options; each is None unless it was given."""
    return [
        click.Option(
            ["--ordering"],
            type=click.Choice(_ORDERINGS),
            help="Which comes next: the highest priority; of each key one at a time, in order; or "
            "of each key one in turn. Can't change.",
        ),
        click.Option(
            ["--dead-letter"],
            metavar="NAME",
            help="Where messages go that can't be handled; made as a queue if it is missing.",
        ),
        click.Option(
            ["--max-deliveries"],
            type=int,
            help="Failed deliveries before that, 1 to 1000. Needs --dead-letter. [default: 5]",
        ),
        click.Option(
            ["--dead-letter-expired/--drop-expired"],
            default=None,
            help="Whether expired messages go there too, or are dropped.",
        ),
        click.Option(
            ["--retry-backoff", "retry_backoff_ms"],
            type=duration,
            help="The wait after a failed delivery, such as 1s.",
        ),
        click.Option(
            ["--retry-backoff-multiplier"],
            type=float,
            help="The wait grows by it with each further one, 1 to 100. Needs --retry-backoff.",
        ),
        click.Option(
            ["--retry-backoff-max", "retry_backoff_max_ms"],
            type=duration,
            help="The longest wait, such as 10m, below --message-ttl. Needs --retry-backoff.",
        ),
        click.Option(
            ["--message-ttl", "message_ttl_ms"],
            type=duration,
            help="Messages expire so long after they came; 0: never.",
        ),
        click.Option(
            ["--paused/--not-paused"],
            default=None,
            help="Whether nothing is delivered for now. Publishing and acks go on.",
        ),
        click.Option(
            ["--rate", "rate_per_s"],
            type=rate,
            help="Messages handed out at the most, such as 100/s or 6000/m; 0: no limit.",
        ),
        click.Option(
            ["--fair-by"],
            metavar="key|header:NAME",
            help="With fair ordering, what has a turn: a key, or the value of a header. Can't "
            "change. [default: key]",
        ),
    ]


def with_delivery_options(command: FunctionT) -> FunctionT:
    """The same for a command that is made by decorators."""
    parameters = getattr(command, "__click_params__", [])
    # click reads them from the last to the first.
    parameters.extend(reversed(delivery_options()))
    command.__click_params__ = parameters  # type: ignore[attr-defined]
    return command
