"""Making, listing and revoking tokens."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mom_broker.master.writer import ControlWriter
from mom_core import access, catalog
from mom_core.access import TokenRecord
from mom_core.errors import MomError, NotFoundError, OverloadedError
from mom_core.limits import TOKENS_MAX
from mom_core.ports import KeyWrite, Random, Store

_log = logging.getLogger(__name__)


class TokenAdmin:
    """Changes tokens. The store holds no secret, only a hash of it."""

    def __init__(self, store: Store, writer: ControlWriter, random: Random) -> None:
        self._store = store
        self._writer = writer
        self._random = random

    async def create(
        self, name: str, scopes: Sequence[str], lifetime_ms: int
    ) -> tuple[str, TokenRecord]:
        """The token's text, to be shown once, and its record. ``lifetime_ms`` 0 is for ever.

        Raises InvalidArgumentError for a name or scope that is not allowed.
        """
        now_ms = self._store.now_ms()
        text, record = access.new_token(
            name,
            scopes,
            random=self._random.bytes(access.TOKEN_RANDOM_BYTES),
            created_at_ms=now_ms,
            expires_at_ms=now_ms + lifetime_ms if lifetime_ms else None,
        )
        if len(await self._store.list(catalog.TOKENS_PREFIX)) >= TOKENS_MAX:
            raise OverloadedError(f"there are {TOKENS_MAX} tokens, the most allowed; revoke some")
        write = KeyWrite(catalog.token_key(record.token_id), access.encode_token(record), 0)
        await self._writer.apply(lambda: ([write], None))
        _log.info("token created", extra={"token_id": record.token_id, "token_name": name})
        return text, record

    async def list(self) -> list[TokenRecord]:
        """All tokens, oldest first; one that can't be read is left out, and said in the log."""
        records = []
        for entry in await self._store.list(catalog.TOKENS_PREFIX):
            try:
                records.append(access.decode_token(entry.value))
            except MomError as error:
                _log.error("token entry %s can't be read: %s", entry.key, error.message)
        return sorted(records, key=lambda record: (record.created_at_ms, record.token_id))

    async def revoke(self, token_id: str) -> None:
        """Make a token void. Raises NotFoundError."""
        key = catalog.token_key(token_id)
        entry = await self._store.get(key)
        if entry is None:
            raise NotFoundError(f"no token with the id {token_id[:64]!r}", field="token_id")
        await self._writer.apply(lambda: ([KeyWrite(key, None)], None))
        _log.info("token revoked", extra={"token_id": token_id})
