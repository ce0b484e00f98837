"""From a command to the cluster: one engine for the length of one command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mom_cli.command import addresses_of, shared_of
from mom_core.errors import NotFoundError

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.options import EngineOptions

ResultT = TypeVar("ResultT")


def with_engine(
    context: click.Context,
    work: Callable[[Engine], Coroutine[Any, Any, ResultT]],
    options: EngineOptions | None = None,
) -> ResultT:
    """Run ``work`` with an engine that is connected as the options say, and close it after.

    SIGTERM ends it as Ctrl-C does: what was published is still sent, leases are given back.
    """
    # gRPC is loaded here and not above, so that help and completion are quick.
    from mom_client.engine import Engine
    from mom_client.options import EngineOptions

    shared = shared_of(context)
    addresses = addresses_of(shared)

    async def run() -> ResultT:
        engine = Engine(addresses, token=shared.token, options=options or EngineOptions())
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.close()

    # asyncio.run turns SIGINT into a cancellation of the work; SIGTERM is to end in the same way.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    return asyncio.run(run())


def with_deletion(
    context: click.Context,
    delete: Callable[[Engine], Coroutine[Any, Any, None]],
    if_exists: bool,
) -> bool:
    """Delete something; False when it was not there, which is only allowed with ``if_exists``."""

    async def work(engine: Engine) -> bool:
        try:
            await delete(engine)
        except NotFoundError:
            if not if_exists:
                raise
            return False
        return True

    return with_engine(context, work)
