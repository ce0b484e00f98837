"""The boundary to HTTP: MOM's calls through a gateway, in the Connect protocol.

For clients that reach no node: on a laptop behind an Ingress or a tunnel. No other module of the
client touches aiohttp, and this one imports it only when a gateway is called.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from mom_client import connect_protocol as connect
from mom_client.addresses import split
from mom_core.errors import ErrorCode, MomError, TimedOutError, UnavailableError, error_of

if TYPE_CHECKING:
    import aiohttp

# Calls under way at a time, over all gateways; a further one waits for a connection.
CONNECTIONS_MAX: Final = 64
# A stream has a beat every 10 seconds; silence for longer than two of them is a dead connection.
STREAM_SILENCE_SECONDS_MAX: Final = 25
# Some of what a proxy says in place of a gateway.
_FOREIGN_TEXT_MAX: Final = 160
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

# What a status means without an error of MOM's: something in between spoke.
_CODES_OF_FOREIGN_STATUS: Final = {
    401: ErrorCode.UNAUTHENTICATED,
    403: ErrorCode.FORBIDDEN,
    # The Ingress has no backend yet, or this is not a gateway.
    404: ErrorCode.UNAVAILABLE,
    408: ErrorCode.TIMEOUT,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.OVERLOADED,
    502: ErrorCode.UNAVAILABLE,
    503: ErrorCode.UNAVAILABLE,
    504: ErrorCode.TIMEOUT,
}


class GatewayCalls:
    """Calls by way of gateways. Belongs to the event loop on which it is first used."""

    def __init__(self, token: str | None = None) -> None:
        self._headers = {connect.VERSION_HEADER: "1", "accept-encoding": "identity"}
        if token:
            self._headers["authorization"] = f"Bearer {token}"
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False
        self._resumed: asyncio.Event | None = None

    async def call(self, address: str, method: str, request: bytes, timeout_ms: int) -> bytes:
        """Call a method at a gateway, or through it. Raises as the Transport port says."""
        headers = {
            "content-type": connect.UNARY_TYPE,
            connect.TIMEOUT_HEADER: str(timeout_ms),
        }
        async with self._post(address, method, request, headers, timeout_ms / 1000) as answer:
            body: bytes = await answer.read()
            if answer.status == 200 and answer.content_type == connect.UNARY_TYPE:
                return body
            raise _refusal(address, answer, body)

    async def stream(
        self, address: str, method: str, request: bytes
    ) -> AsyncGenerator[bytes, None]:
        """Call a method that answers with a stream. Raises as :meth:`call`."""
        reader = connect.EnvelopeReader()
        headers = {"content-type": connect.STREAM_TYPE}
        async with self._post(address, method, connect.envelope(request), headers, None) as answer:
            if answer.status != 200 or answer.content_type != connect.STREAM_TYPE:
                raise _refusal(address, answer, await answer.read())
            async for data in answer.content.iter_any():
                try:
                    for message in reader.feed(data):
                        yield message
                except ValueError as error:
                    raise UnavailableError(f"{_shown(address)} does not speak: {error}") from None
        if reader.error is not None:
            raise reader.error
        if not reader.ended:
            raise UnavailableError(f"the connection to {_shown(address)} broke")

    @asynccontextmanager
    async def _post(
        self,
        address: str,
        method: str,
        body: bytes,
        headers: dict[str, str],
        timeout_seconds: float | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        if self._resumed is not None:
            await self._resumed.wait()
        url, target = split(address)
        if target:
            headers[connect.TARGET_HEADER] = target
        timeout = aiohttp.ClientTimeout(
            total=timeout_seconds,
            sock_read=STREAM_SILENCE_SECONDS_MAX if timeout_seconds is None else None,
        )
        try:
            async with self._session(url).post(
                url + method, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                yield answer
        except TimeoutError:
            raise TimedOutError(f"{_shown(address)}: no answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"{_shown(address)}: {_reason(error)}") from None

    def _session(self, url: str) -> aiohttp.ClientSession:
        if self._closed:
            raise UnavailableError("the client was closed")
        # A tunnel's end on this machine is never behind a proxy, whatever the environment says.
        local = (urlsplit(url).hostname or "") in _LOOPBACK
        session = self._sessions.get(local)
        if session is None:
            import aiohttp

            session = self._sessions[local] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
                headers=self._headers,
                trust_env=not local,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return session

    async def pause(self) -> None:
        """Close all connections until :meth:`resume`."""
        self._resumed = asyncio.Event()
        await self._close_all()

    def resume(self) -> None:
        """Connect again on demand."""
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    async def close(self) -> None:
        """Close all connections. Calls under way end with UnavailableError."""
        self._closed = True
        self.resume()
        await self._close_all()

    async def _close_all(self) -> None:
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(session.close() for session in sessions))


def _shown(address: str) -> str:
    url, target = split(address)
    return f"{target} by way of {url}" if target else url


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", error)  # aiohttp's own text repeats the address.
    return str(cause) or type(error).__name__


def _refusal(address: str, answer: Any, body: bytes) -> MomError:
    """The error of an answer that is not a reply."""
    ours = connect.parse_error(body)
    if ours is not None:
        return ours
    code = _CODES_OF_FOREIGN_STATUS.get(answer.status, ErrorCode.UNAVAILABLE)
    text = body[:_FOREIGN_TEXT_MAX].decode("utf-8", "replace").strip()
    return error_of(
        code.value,
        f"{split(address)[0]} answered {answer.status} {answer.content_type} and not as a MOM "
        f"gateway does: {text or 'an empty body'}. Check the URL, and the proxies in between",
    )
