"""How a route describes itself; :mod:`mom_gateway.openapi` makes the document of these.

FastAPI's routes and the plain ASGI ones are described in the same way, beside their code, in terms
of the very types that they decode and encode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Depends, Request

from mom_core.errors import ErrorCode
from mom_gateway.http import Query

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A query parameter."""

    name: str
    description: str
    schema: dict[str, Any]
    example: Any = None


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A request body that works."""

    summary: str
    value: Any
    media_type: str = "application/json"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A successful answer."""

    description: str
    type: Any = None
    """The type of its JSON; several in a tuple; None for no body."""
    example: Any = None
    media_type: str = "application/json"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    id: str
    summary: str
    tag: str
    description: str = ""
    query: tuple[Parameter, ...] = ()
    body: Any = None
    """The type of the request's JSON, None for no body."""
    body_required: bool = True
    examples: tuple[Example, ...] = ()
    answers: dict[int, Answer]
    errors: tuple[ErrorCode, ...] = ()
    """Beside those that any call may get."""
    open: bool = False
    """Needs no token."""

    def check_query(self, query_string: bytes) -> None:
        """Raise InvalidArgumentError for a query parameter that the operation does not have."""
        if query_string:
            Query(query_string, frozenset(one.name for one in self.query))


class Described:
    """FastAPI routes with their descriptions."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.operations: list[tuple[str, str, Operation]] = []

    def route(self, method: str, path: str, operation: Operation) -> Callable[[HandlerT], HandlerT]:
        """Register a handler under a method and path."""
        self.operations.append((method, path, operation))

        def check(request: Request) -> None:
            operation.check_query(request.scope["query_string"])

        def register(handler: HandlerT) -> HandlerT:
            self.router.add_api_route(
                path,
                handler,
                methods=[method],
                operation_id=operation.id,
                dependencies=[Depends(check)],
                response_model=None,
                include_in_schema=False,
            )
            return handler

        return register


def whole(lowest: int, highest: int, default: int | None = None) -> dict[str, Any]:
    """The schema of a whole number."""
    schema: dict[str, Any] = {"type": "integer", "minimum": lowest, "maximum": highest}
    return schema if default is None else schema | {"default": default}
