"""A request on its way through a plain ASGI route, and what such a route is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from mom_core.access import Action, Identity
from mom_core.errors import ErrorCode, InvalidArgumentError
from mom_core.limits import OFFSET_MAX
from mom_core.quantities import parse_duration_ms
from mom_gateway.bodies import Duration, check_utf8, invalid_json, malformed_json
from mom_gateway.http import Body, Query, Receive, Reply, Scope, header_of
from mom_gateway.operations import Operation
from mom_gateway.service import Service

BodyT = TypeVar("BodyT")

JSON_TYPES: Final = ("application/json",)


class Call:
    """One request. ``names`` are the parts of the path between its fixed words."""

    __slots__ = ("body", "identity", "names", "receive", "scope", "service")

    def __init__(
        self, service: Service, scope: Scope, receive: Receive, names: list[str], identity: Identity
    ) -> None:
        self.service = service
        self.scope = scope
        self.receive = receive
        self.names = names
        self.identity = identity
        self.body = Body(
            scope["headers"], receive, service.settings.body_bytes_max, service.body_memory
        )

    def media_type(self, allowed: tuple[str, ...]) -> str:
        """The body's media type, JSON when none is given.

        Raises InvalidArgumentError (unsupported_media_type) unless it is one of ``allowed`` in
        UTF-8.
        """
        header = header_of(self.scope["headers"], b"content-type")
        return check_media_type(header, allowed)

    async def json(
        self,
        decoder: msgspec.json.Decoder[BodyT],
        default: BodyT | None = None,
        media_types: tuple[str, ...] = JSON_TYPES,
    ) -> BodyT:
        """The body as the decoder's type; ``default`` for no body at all.

        Raises InvalidArgumentError that names the field or the position.
        """
        self.media_type(media_types)
        body = await self.body.read()
        if not body and default is not None:
            return default
        check_utf8(body)
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise invalid_json(error, decoder.type) from None
        except msgspec.DecodeError as error:
            raise malformed_json(body, error) from None

    def query(self, known: frozenset[str]) -> Query:
        """The URL's parameters. Raises InvalidArgumentError for an unknown one."""
        return Query(self.scope["query_string"], known)


Handler = Callable[[Call], Awaitable[Reply]]


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A plain ASGI route: words and names alternate in its path, and the first name is what the
    caller needs ``action`` on."""

    method: str
    path: str
    """Such as ``/v1/topics/{topic}/records``."""
    action: Action
    handler: Handler
    operation: Operation

    @property
    def words(self) -> tuple[str, ...]:
        """The fixed words of the path."""
        return tuple(self.path.split("/")[2::2])


def check_media_type(header: bytes | None, allowed: tuple[str, ...]) -> str:
    """The media type of a Content-Type header, the first allowed one when there is none.

    Raises InvalidArgumentError (unsupported_media_type) with the allowed ones.
    """
    if header is None:
        return allowed[0]
    text = header.decode("latin-1")
    media_type, _, parameters = text.partition(";")
    media_type = media_type.strip().lower()
    if media_type not in allowed:
        hint = " (curl: use --json, or -H 'content-type: application/json')"
        raise InvalidArgumentError(
            f"content-type {text[:100]!r} is not supported here; use {', '.join(allowed)}"
            f"{hint if 'form' in media_type else ''}",
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            field="content-type",
            details={"allowed": ", ".join(allowed)},
        )
    charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip(' "')
    if charset and charset not in ("utf-8", "utf8", "us-ascii"):
        raise InvalidArgumentError(
            f"charset {charset[:32]!r} is not supported; send UTF-8, or bytes in value_base64",
            code=ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            field="content-type",
        )
    return media_type


def check_duration(value: Duration, field: str, lowest_ms: int, highest_ms: int) -> int:
    """Milliseconds of a duration within its range; raises as :func:`check_range`."""
    return check_range(parse_duration_ms(value, field), field, lowest_ms, highest_ms)


def check_range(value: int, field: str, lowest: int, highest: int = OFFSET_MAX) -> int:
    """Return ``value`` within its range, else raise InvalidArgumentError that names both."""
    if not lowest <= value <= highest:
        raise InvalidArgumentError(
            f"{field} is {value}; {lowest} to {highest} is allowed", field=field
        )
    return value
