"""A lean HTTP/1.1 load generator: keep-alive connections that each send one request at a time.

The client shares two cores with the server it measures, so it does the least that is still HTTP.
"""

from __future__ import annotations

import asyncio
import time


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, budget: list[int], done: asyncio.Future[None]) -> None:
        self._request = request
        self._budget = budget
        self._done = done
        self._buffer = b""
        self.failed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream transport"
        self._transport = transport
        self._next()

    def _next(self) -> None:
        if self._budget[0] <= 0:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._budget[0] -= 1
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        place = head.lower().find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.failed += 1
        self._buffer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))


async def post_rate(
    host: str, port: int, path: str, body: bytes, *, requests: int, connections: int
) -> float:
    """Requests a second, all of them answered with 200; raises when one was not."""
    request = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    budget = [requests]
    done = [loop.create_future() for _ in range(connections)]
    begun = time.perf_counter()
    made = [
        await loop.create_connection(lambda one=one: _Connection(request, budget, one), host, port)
        for one in done
    ]
    await asyncio.gather(*done)
    elapsed = time.perf_counter() - begun
    failed = sum(protocol.failed for _, protocol in made)
    if failed:
        raise RuntimeError(f"{failed} of {requests} requests failed")
    return requests / elapsed
