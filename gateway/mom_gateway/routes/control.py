"""What the FastAPI routes share: the call, the answer, and how a topic or queue is shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, Path, Query, Request, Response

from mom_gateway.calls import Call
from mom_gateway.http import Reply, json_bytes
from mom_gateway.operations import Parameter, whole

IDENTITY: Final = "mom.identity"
"""Where the dispatcher puts the caller's identity into the ASGI scope."""

LIST_LIMIT_DEFAULT: Final = 100
LIST_LIMIT_MAX: Final = 1_000

document_decoder: Final = msgspec.json.Decoder(dict[str, Any])


def _call_of(request: Request) -> Iterator[Call]:
    call = Call(
        request.app.state.service, request.scope, request.receive, [], request.scope[IDENTITY]
    )
    try:
        yield call
    finally:
        call.body.release()


CallOf = Annotated[Call, Depends(_call_of)]
Name = Annotated[str, Path()]
Limit = Annotated[int, Query(ge=1, le=LIST_LIMIT_MAX)]
PageToken = Annotated[str, Query(max_length=1_024)]

LIST_QUERY: Final = (
    Parameter(
        name="limit",
        description="At most so many.",
        schema=whole(1, LIST_LIMIT_MAX, LIST_LIMIT_DEFAULT),
    ),
    Parameter(
        name="page_token",
        description="next_page_token of the answer before. Left out: from the beginning.",
        schema={"type": "string"},
    ),
)


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(json_bytes(value), status, headers, "application/json")


def response_of(reply: Reply) -> Response:
    """A plain ASGI route's answer as FastAPI's."""
    response = Response(reply.body, reply.status, media_type=reply.media_type.decode())
    for name, value in reply.headers:
        response.headers[name.decode()] = value.decode()
    return response
