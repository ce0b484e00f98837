"""Making what is missing: in `mom dev`, the first use of a name creates the topic or queue.

A cluster over a store for one process is a developer's; elsewhere a misspelt name must not become a
topic, so there it takes a flag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from mom_core.errors import NotFoundError
from mom_core.topics import TopicKind

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.routing import TopicRoute

_DEVELOPMENT_ENGINES: Final = ("sqlite", "memory")


async def topic_or_create(
    engine: Engine, name: str, kind: TopicKind, create: bool | None
) -> tuple[TopicRoute, bool]:
    """A topic or queue, and whether it was made now.

    ``create`` None: only in a developer's cluster. Raises NotFoundError that says how to create.
    """
    try:
        return await engine.topic(name), False
    except NotFoundError:
        if create is None:
            create = (await engine.cluster()).store_engine in _DEVELOPMENT_ENGINES
        if not create:
            raise NotFoundError(
                f"there is no topic or queue {name!r}; `mom topic create {name}` or "
                f"`mom queue create {name}` makes one",
                field="topic",
            ) from None
    made, is_new = await engine.create_topic(name, kind, {})
    if is_new:
        count = f"{made.partitions} partition{'s' if made.partitions != 1 else ''}"
        click.echo(f"{kind} {name!r} did not exist: created it with {count}", err=True)
    return await engine.topic(name), is_new


async def subscription_or_create(
    engine: Engine, route: TopicRoute, name: str, start: str, mode: str = "stream"
) -> bool:
    """Make sure of a subscription; whether it was made now.

    Raises NotFoundError, outside a developer's cluster, that says how to create it.
    """
    if name in route.subscriptions:
        return False
    if (await engine.cluster()).store_engine not in _DEVELOPMENT_ENGINES:
        raise NotFoundError(
            f"{route.name!r} has no subscription {name!r}; "
            f"`mom subscription create {route.name} {name} --mode {mode}` makes one",
            field="subscription",
        )
    _, is_new = await engine.create_subscription(route.name, name, {"mode": mode, "start": start})
    if is_new:
        said = f"created it, from {start}"
        click.echo(f"subscription {name!r} of {route.name!r} did not exist: {said}", err=True)
    return is_new
