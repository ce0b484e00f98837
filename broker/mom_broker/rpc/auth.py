"""Where a gRPC call becomes an identity. What an identity may do, mom_core.access decides.

Tokens are few (limits.TOKENS_MAX), so each process follows them by a watch of the store and looks
each one up in its own memory: a call waits for nothing, a revocation is known within a watch's
delay, and a store or master that is down locks nobody out. The cluster's own token, which its
processes share and the store never sees, stands for an identity that may do everything.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from contextlib import aclosing, suppress
from typing import Any, Final

import grpc

from mom_core import access, catalog
from mom_core.access import Identity, TokenRecord
from mom_core.errors import MomError, UnauthenticatedError
from mom_core.ports import Clock, KeyEvent, KeySnapshot, Store

CLUSTER_IDENTITY: Final = Identity("cluster", ("admin",))

# How long to wait before a broken watch is begun again.
WATCH_RETRY_MS: Final = 200

_log = logging.getLogger(__name__)


class Authenticator:
    """Follows the tokens in the store and names the identity behind each call."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        open_to_all: bool = False,
        cluster_token: str | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._open_to_all = open_to_all
        self._cluster_token = cluster_token.encode() if cluster_token else None
        self._records: dict[str, TokenRecord] = {}
        self._synced = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow the tokens; returns when all are known."""
        if not self._open_to_all:
            self._task = asyncio.create_task(self._follow(), name="tokens")
            await self._synced.wait()

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def identity_of(self, context: grpc.aio.ServicerContext[Any, Any]) -> Identity:
        """Who makes this call. Raises UnauthenticatedError."""
        if self._open_to_all:
            return access.OPEN
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str):
                return self.identity_of_header(value)
        return self.identity_of_header(None)

    def identity_of_header(self, header: str | None) -> Identity:
        """Who sent this value of an Authorization header. Raises UnauthenticatedError."""
        if self._open_to_all:
            return access.OPEN
        scheme, _, text = (header or "").strip().partition(" ")
        if scheme.lower() == "bearer" and self._is_cluster_token(text.strip()):
            return CLUSTER_IDENTITY
        return self._verify(access.parse_bearer(header))

    def identity_of_token(self, text: str) -> Identity:
        """Who holds this token. Raises UnauthenticatedError.

        Also where everyone is let in: whoever asks about a token wants to know about that token.
        """
        if self._is_cluster_token(text):
            return CLUSTER_IDENTITY
        if self._open_to_all:
            return access.OPEN
        return self._verify(access.parse_token(text))

    def require_cluster(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Refuse a call that no process of the cluster makes. Raises UnauthenticatedError."""
        if self.identity_of(context) not in (CLUSTER_IDENTITY, access.OPEN):
            raise UnauthenticatedError(
                "this call is for processes of the cluster only: send the cluster's own token "
                "(MOM_CLUSTER_TOKEN)"
            )

    def _is_cluster_token(self, text: str) -> bool:
        own = self._cluster_token
        return own is not None and hmac.compare_digest(text.encode(), own)

    def _verify(self, presented: access.PresentedToken) -> Identity:
        record = self._records.get(presented.token_id)
        return access.authenticate(presented, record, self._clock.now_ms())

    async def _follow(self) -> None:
        while True:
            try:
                watch = self._store.watch(catalog.TOKENS_PREFIX)
                async with aclosing(watch) as changes:  # type: ignore[type-var]
                    async for change in changes:
                        self._apply(change)
                return  # The store was closed.
            except MomError as error:
                _log.warning("the watch of tokens broke and begins again: %s", error.message)
            await self._clock.sleep(WATCH_RETRY_MS)

    def _apply(self, change: KeySnapshot | KeyEvent) -> None:
        if isinstance(change, KeySnapshot):
            self._records.clear()
            for entry in change.entries:
                self._put(entry.key, entry.value)
            self._synced.set()
        else:
            self._put(change.key, change.value)

    def _put(self, key: str, value: bytes | None) -> None:
        token_id = key.removeprefix(catalog.TOKENS_PREFIX)
        # Whatever can't be read admits nobody.
        self._records.pop(token_id, None)
        if value is None:
            return
        try:
            self._records[token_id] = access.decode_token(value)
        except MomError as error:
            _log.error("token %s can't be read and is void here: %s", token_id, error.message)
