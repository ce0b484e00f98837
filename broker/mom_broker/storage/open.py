"""From a store's URL to its engine."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from mom_broker.storage.memory import MemoryStore
from mom_broker.storage.sqlite import SqliteStore
from mom_core.errors import InvalidArgumentError
from mom_core.ports import Clock, Durability, Store

REDIS_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "valkey": "redis"}


def store_from_url(
    url: str,
    clock: Clock,
    *,
    namespace: str = "mom",
    accept_durability: Durability | None = None,
    declared_durability: Durability | None = None,
    replicas_required: int = 0,
) -> Store:
    """The store at ``url``, not yet opened.

    ``memory://``, ``sqlite:///absolute/directory`` (``sqlite:directory`` for a relative one), or
    ``redis://``, ``rediss://`` (TLS) and ``valkey://`` with host, port, credentials and database.
    The keywords are for Redis, see :class:`mom_broker.storage.redis.RedisStore`. Raises
    InvalidArgumentError for any other URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return MemoryStore(clock)
    if parts.scheme == "sqlite" and not parts.netloc and parts.path:
        return SqliteStore(Path(unquote(parts.path)), clock)
    if parts.scheme in REDIS_SCHEMES and parts.hostname:
        # The other engines work without the redis package.
        from mom_broker.storage.redis import RedisStore

        return RedisStore(
            REDIS_SCHEMES[parts.scheme] + url[len(parts.scheme) :],
            clock,
            namespace=namespace,
            accept_durability=accept_durability,
            declared_durability=declared_durability,
            replicas_required=replicas_required,
        )
    raise InvalidArgumentError(
        f"{parts.scheme}://... is not a store URL: use memory://, sqlite:///DIRECTORY or "
        "redis://HOST:PORT (also rediss://, valkey://)",
        field="store",
    )
