"""Requests and answers of the plain ASGI routes: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from mom_core.errors import InvalidArgumentError, OverloadedError, TooLargeError
from mom_core.suggestions import known_instead

Scope = MutableMapping[str, Any]
AsgiMessage = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON: Final = b"application/json"

json_bytes: Final = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()
    media_type: bytes = JSON


class ClientGoneError(Exception):
    """The client closed its connection: nobody waits for an answer."""


async def send_reply(send: Send, reply: Reply) -> None:
    """Send an answer in two steps."""
    headers = [
        (b"content-type", reply.media_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def header_of(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The first header of a lower-case name."""
    for key, value in headers:
        if key == name:
            return value
    return None


class BodyMemory:
    """Bytes of request bodies in memory, over all requests. Not thread-safe."""

    __slots__ = ("held_bytes", "limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def take(self, size: int) -> None:
        """Raises OverloadedError at the limit."""
        if self.held_bytes + size > self.limit_bytes:
            raise OverloadedError(
                f"the gateway holds {self.held_bytes} bytes of request bodies and may hold "
                f"{self.limit_bytes}. Try again in a second, or send fewer requests at once"
            )
        self.held_bytes += size

    def give_back(self, size: int) -> None:
        """Bytes that are no longer held."""
        self.held_bytes -= size


class Body:
    """The body of one request. Call :meth:`release` when its bytes are done with."""

    __slots__ = ("_declared", "_limit_bytes", "_memory", "_receive", "_taken")

    def __init__(
        self, headers: Iterable[Header], receive: Receive, limit_bytes: int, memory: BodyMemory
    ) -> None:
        declared = header_of(headers, b"content-length")
        self._declared = int(declared) if declared and declared.isdigit() else None
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._memory = memory
        self._taken = 0

    async def read(self) -> bytes:
        """The whole body.

        Raises TooLargeError, OverloadedError, ClientGoneError.
        """
        if self._declared is not None and self._declared > self._limit_bytes:
            raise self._too_large(self._declared)
        first = await self._next()
        if not first["more_body"]:
            return self._checked(first["body"])
        parts = [self._checked(first["body"])]
        while True:
            message = await self._next()
            parts.append(self._checked(message["body"]))
            if not message["more_body"]:
                return b"".join(parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, with no limit. Raises ClientGoneError."""
        more = True
        while more:
            message = await self._next()
            more = message["more_body"]
            if message["body"]:
                yield message["body"]

    async def _next(self) -> AsgiMessage:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        message.setdefault("body", b"")
        message.setdefault("more_body", False)
        return message

    def _checked(self, part: bytes) -> bytes:
        if self._taken + len(part) > self._limit_bytes:
            raise self._too_large(self._taken + len(part))
        self._memory.take(len(part))
        self._taken += len(part)
        return part

    def _too_large(self, size: int) -> TooLargeError:
        return TooLargeError(
            f"the body has {size} bytes or more; at most {self._limit_bytes} are allowed. Send "
            "smaller batches, or stream with content-type application/x-ndjson, which has no limit",
            field="body",
            details={"limit_bytes": str(self._limit_bytes)},
        )

    def release(self) -> None:
        """Count the body's bytes as gone."""
        self._memory.give_back(self._taken)
        self._taken = 0


class Query:
    """The parameters of a URL. Every one that is given must be known."""

    __slots__ = ("_values",)

    def __init__(self, query_string: bytes, known: frozenset[str]) -> None:
        """Raises InvalidArgumentError for an unknown or repeated parameter."""
        self._values: dict[str, str] = {}
        if query_string:
            self._read(query_string, known)

    def _read(self, query_string: bytes, known: frozenset[str]) -> None:
        for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            if name not in known:
                instead = known_instead(name, sorted(known)) if known else "; this call takes none"
                raise InvalidArgumentError(
                    f"unknown query parameter {name[:64]!r}{instead}",
                    field=name[:64],
                )
            if name in self._values:
                raise InvalidArgumentError(f"query parameter {name} is given twice", field=name)
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """The parameter as given, or None."""
        return self._values.get(name)

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        """A whole number. Raises InvalidArgumentError naming what is allowed."""
        text = self._values.get(name)
        return default if text is None else whole_number(text, name, lowest, highest)


def whole_number(text: str, field: str, lowest: int, highest: int) -> int:
    """Read decimal digits. Raises InvalidArgumentError naming the field and what is allowed."""
    if text.isascii() and text.isdigit() and len(text) <= 20 and lowest <= int(text) <= highest:
        return int(text)
    raise InvalidArgumentError(
        f"{field} is {text[:64]!r}; a whole number from {lowest} to {highest} is allowed",
        field=field,
    )
