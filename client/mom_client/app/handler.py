"""A handler: a function of the application, and how a message becomes its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from mom_client import tracing
from mom_client.app.payload import Decode, decoder
from mom_client.app.threads import HandlerThreads
from mom_client.received import ReceivedMessage
from mom_core.errors import InvalidArgumentError


class Handler:
    """Calls a function for one message at a time.

    Raises InvalidArgumentError when the function can't take a message.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        subscription: str,
        local_names: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self._subscription = subscription
        self.name = _name(function)
        self.is_async = _is_async(function)
        self._decoders = _decoders(function, self.name, local_names)

    async def run(self, message: ReceivedMessage, threads: HandlerThreads) -> None:
        """Handle a message, within the trace that it carries. Raises whatever the handler raises,
        and PayloadError when the message is not what it takes."""
        with tracing.handling(message, self._subscription):
            arguments = [decode(message) for decode in self._decoders]
            if self.is_async:
                await self.function(*arguments)
                return
            result = await threads.run(self.function, *arguments)
            if inspect.isawaitable(result):  # A plain function around an async one.
                await result


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _name(function: Callable[..., Any]) -> str:
    named = _innermost(function)
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}.{named.__qualname__}"


def _is_async(function: Callable[..., Any]) -> bool:
    called = getattr(_innermost(function), "__call__", None)  # noqa: B004 - the method itself
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _decoders(
    function: Callable[..., Any], name: str, local_names: Mapping[str, Any] | None
) -> list[Decode]:
    """One for each argument that has no default."""
    called = getattr(_innermost(function), "__call__", None)  # noqa: B004 - the method itself
    for one in (_innermost(function), called):
        if inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one):
            raise _wrong(name, "it is a generator (it has a yield), which nobody would run")
    hints = _hints(function, name, local_names)
    decoders: list[Decode] = []
    payloads = 0
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        wanted = hints.get(parameter.name, ReceivedMessage)
        if parameter.default is not parameter.empty:
            continue
        payloads += wanted is not ReceivedMessage
        if payloads > 1 or parameter.kind is parameter.KEYWORD_ONLY:
            raise _wrong(name, f"it has no value for its argument {parameter.name!r}")
        decoders.append(decoder(wanted))
    if not decoders:
        raise _wrong(name, "it takes no argument")
    return decoders


def _hints(
    function: Callable[..., Any], name: str, local_names: Mapping[str, Any] | None
) -> dict[str, Any]:
    function = _innermost(function)
    annotated = function if inspect.isroutine(function) else type(function).__call__
    try:
        return get_type_hints(annotated, localns=dict(local_names or {}), include_extras=True)
    except NameError as error:
        raise _wrong(name, f"its annotations can't be read here: {error}") from None


def _wrong(name: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{name} can't be a handler: {why}. A handler takes the payload, annotated with its type, "
        "or the message, annotated with ReceivedMessage, or both",
        field="handler",
    )
