"""The one place where a request becomes an identity, and asks whether that identity may do it.

A token is proven by a node (:meth:`Engine.authenticate`, constant-time there); its answer is kept
for as long as the node allows, under a hash of the token, so that no token lies in this process's
memory longer than its request. Refusals are kept briefly too, or a client with a wrong token could
ask nodes at the rate of its requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from mom_core import access, limits
from mom_core.access import CLUSTER, OPEN, Action, Identity
from mom_core.errors import ForbiddenError, UnauthenticatedError
from mom_core.ports import Clock
from mom_gateway.http import Header

if TYPE_CHECKING:
    from mom_client.engine import Engine

REFUSAL_CACHE_MS: Final = 1_000
_TOKEN_BYTES_MAX: Final = 512


class Access:
    """Bearer tokens to identities, with a bounded cache."""

    def __init__(self, engine: Engine, clock: Clock, *, open_to_all: bool) -> None:
        self._engine = engine
        self._clock = clock
        self._open_to_all = open_to_all
        self._known: OrderedDict[bytes, tuple[int, Identity | UnauthenticatedError]] = OrderedDict()

    async def identify(self, headers: Iterable[Header]) -> Identity:
        """Who sent a request with these headers.

        Raises UnauthenticatedError; ForbiddenError for a foreign web page's request to a gateway
        that is open to all.
        """
        if self._open_to_all:
            _refuse_foreign_pages(headers)
            return OPEN
        token = _bearer_token(headers)
        digest = blake2b(token.encode(), digest_size=32).digest()
        known = self._known.get(digest)
        if known is None or known[0] <= self._clock.monotonic_ms():
            known = await self._ask(token, digest)
        if isinstance(known[1], UnauthenticatedError):
            raise UnauthenticatedError(known[1].message)
        return known[1]

    async def _ask(self, token: str, digest: bytes) -> tuple[int, Identity | UnauthenticatedError]:
        found: Identity | UnauthenticatedError
        try:
            answer = await self._engine.authenticate(token)
            found = Identity(answer.name, tuple(answer.scopes))
            kept_ms = min(answer.cache_ms, limits.TOKEN_CACHE_MS)
        except UnauthenticatedError as error:
            found, kept_ms = error, REFUSAL_CACHE_MS
        entry = (self._clock.monotonic_ms() + kept_ms, found)
        self._known[digest] = entry
        self._known.move_to_end(digest)
        if len(self._known) > limits.TOKENS_MAX:
            self._known.popitem(last=False)
        return entry


def require(identity: Identity, action: Action, resource: str = CLUSTER) -> None:
    """Raise ForbiddenError unless the identity may do this. The only call of its kind here."""
    access.require(identity, action, resource)


def _bearer_token(headers: Iterable[Header]) -> str:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").strip().partition(" ")
            token = token.strip()
            if scheme.lower() == "bearer" and 0 < len(token) <= _TOKEN_BYTES_MAX:
                return token
            raise UnauthenticatedError(
                "the Authorization header is not 'Bearer TOKEN'; tokens are made by `mom token "
                "create`",
                field="authorization",
            )
    raise UnauthenticatedError(
        "the request has no token; send the header 'Authorization: Bearer TOKEN'. Tokens are made "
        "by `mom token create`",
        field="authorization",
    )


def _refuse_foreign_pages(headers: Iterable[Header]) -> None:
    # Any web page can make its reader's browser send requests to 127.0.0.1.
    for name, value in headers:
        if name == b"sec-fetch-site" and value == b"cross-site":
            raise ForbiddenError(
                "a web page of another site sent this request, and this gateway is open to all. "
                "Turn auth on to let web pages use it",
                field="sec-fetch-site",
            )
