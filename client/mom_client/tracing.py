"""Trace context over messages: the W3C headers ``traceparent`` and ``tracestate``.

A publish puts the current context into the message's headers, and :func:`handling` makes a
message's context the current one. Where the application uses OpenTelemetry, this goes by its
propagators, with spans after its semantic conventions for messaging; else the headers are passed on
as they came, so that a trace goes through this process.

OpenTelemetry is used once the application has imported it, and never imported here: without that
there is no tracer that could make spans.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mom_client.received import ReceivedMessage
from mom_core.message import Message

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer

TRACEPARENT: Final = "traceparent"
_CARRIED: Final = (TRACEPARENT, "tracestate", "baggage")

Finish = Callable[[Any], None]

_carried: ContextVar[Mapping[str, str] | None] = ContextVar("mom_trace_headers", default=None)


@contextmanager
def handling(message: ReceivedMessage, subscription: str = "") -> Iterator[None]:
    """Handle a message within its trace: what is published meanwhile belongs to the same."""
    if _used():
        with _process_span(message, subscription or message.origin.subscription):
            yield
        return
    headers = message.headers
    found: dict[str, str] = {name: headers[name] for name in _CARRIED if name in headers}
    before = _carried.set(found if TRACEPARENT in found else None)
    try:
        yield
    finally:
        _carried.reset(before)


def send_one(topic: str, message: Message) -> Finish | None:
    """Put the current trace context into a message, unless it has one.

    Returns what is to be called with the future of its publish, if anything.
    """
    if not _used():
        carried = _carried.get()
        if carried:
            _add(message, carried)
        return None
    if message.headers and TRACEPARENT in message.headers:
        return None
    span = _send_span(topic)
    _add(message, _injected(span))
    if not span.is_recording():
        return None

    def finish(future: Any) -> None:
        if not future.cancelled():
            error = future.exception()
            if error is None:
                published = future.result()
                span.set_attribute("messaging.message.id", published.id_text)
                span.set_attribute("messaging.destination.partition.id", str(published.partition))
            else:
                _fail(span, error)
        span.end()

    return finish


def send_many(topic: str, messages: Sequence[Message]) -> tuple[Sequence[Message], Finish | None]:
    """The same for messages that go together under one span. Messages of the caller's stay as they
    are: those that get headers are copies."""
    if not _used():
        carried = _carried.get()
        return ([_copy(one, carried) for one in messages] if carried else messages), None
    span = _send_span(topic)
    headers = _injected(span)
    if headers:
        messages = [_copy(one, headers) for one in messages]
    if not span.is_recording():
        return messages, None
    span.set_attribute("messaging.batch.message_count", len(messages))

    def finish(future: Any) -> None:
        if not future.cancelled():
            error = future.exception()
            results = [] if error else future.result()
            error = error or next((one for one in results if isinstance(one, Exception)), None)
            if error is not None:
                _fail(span, error)
        span.end()

    return messages, finish


def _add(message: Message, headers: Mapping[str, str]) -> None:
    if headers:
        message.headers = {**headers, **(message.headers or {})}


def _copy(message: Message, headers: Mapping[str, str]) -> Message:
    if message.headers and TRACEPARENT in message.headers:
        return message
    return msgspec.structs.replace(message, headers={**headers, **(message.headers or {})})


# OpenTelemetry.


def _used() -> bool:
    return "opentelemetry.trace" in sys.modules


def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("mom_client")


def _kind(name: str) -> SpanKind:
    from opentelemetry.trace import SpanKind

    return SpanKind[name]


def _injected(span: Span) -> dict[str, str]:
    from opentelemetry import propagate, trace

    headers: dict[str, str] = {}
    propagate.inject(headers, trace.set_span_in_context(span))
    return headers


def _attributes(operation: str, topic: str) -> dict[str, str]:
    return {
        "messaging.system": "mom",
        "messaging.operation.type": operation,
        "messaging.operation.name": operation,
        "messaging.destination.name": topic,
    }


def _send_span(topic: str) -> Span:
    return _tracer().start_span(
        f"send {topic}", kind=_kind("PRODUCER"), attributes=_attributes("send", topic)
    )


@contextmanager
def _process_span(message: ReceivedMessage, subscription: str) -> Iterator[None]:
    from opentelemetry import propagate

    attributes: dict[str, Any] = {
        **_attributes("process", message.topic),
        "messaging.destination.partition.id": str(message.partition),
        "messaging.message.id": message.id,
        "messaging.message.body.size": len(message.value),
    }
    if subscription:
        attributes["messaging.consumer.group.name"] = subscription
    # The span's parent is the one that sent the message, as the conventions allow for a message
    # that is processed by itself. An exception is recorded, and passes.
    with _tracer().start_as_current_span(
        f"process {message.topic}",
        context=propagate.extract(message.headers),
        kind=_kind("CONSUMER"),
        attributes=attributes,
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise


def _fail(span: Span, error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(StatusCode.ERROR, str(error))
