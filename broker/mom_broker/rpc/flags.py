"""Command-line options that masters and nodes share beyond those of every server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mom_core.ports import Durability
from mom_process.flags import CommandT, access_flags, flag, log_flags, options


def server_flags(default_listen: str, default_http_port: int) -> Callable[[CommandT], CommandT]:
    """The options of every server: store, addresses, access, log."""
    return options(
        flag(
            "--store",
            required=True,
            metavar="URL",
            help="Where everything durable lives: redis://HOST:PORT, valkey://, rediss://, or "
            "sqlite:///DIRECTORY for a single process.",
        ),
        flag(
            "--store-wait-ms",
            default=0,
            type=click.IntRange(min=0),
            help="Wait so long at the start for a store that is away, instead of ending.",
        ),
        flag("--listen", default=default_listen, metavar="HOST:PORT", help="Serve gRPC here."),
        flag(
            "--advertise",
            default="",
            metavar="HOST:PORT",
            help="Where others reach it; by default where it listens.",
        ),
        flag("--id", default="", help="A name that is unique in the cluster, and stable."),
        *_store_flags(),
        *_http_flags(default_http_port),
        *access_flags(),
        *log_flags(),
    )


def _store_flags() -> tuple[Callable[[Any], Any], ...]:
    """How to use a Redis; each is the keyword of that name of ``store_from_url``."""
    levels = click.Choice([level.value for level in Durability])

    def durability(_context: click.Context, _option: click.Parameter, value: str | None) -> Any:
        return None if value is None else Durability(value)

    return (
        flag("--namespace", default="mom", help="Prefix of all keys in a Redis."),
        flag(
            "--accept-durability",
            type=levels,
            default=None,
            callback=durability,
            help="Serve although the Redis promises no more than this; every reply says so.",
        ),
        flag(
            "--declared-durability",
            type=levels,
            default=None,
            callback=durability,
            help="What a managed Redis that can't be asked (CONFIG is forbidden) promises.",
        ),
        flag(
            "--replicas-required",
            type=click.IntRange(min=0),
            default=0,
            help="Replicas that have a write on disk before it is acknowledged.",
        ),
    )


def _http_flags(default_port: int) -> tuple[Callable[[Any], Any], ...]:
    return (
        flag(
            "--http-port",
            default=default_port,
            type=click.IntRange(-1, 65_535),
            help="Port of /healthz, /readyz and /metrics, on the host of --listen. "
            "0 chooses a free one, -1 turns it off.",
        ),
    )
