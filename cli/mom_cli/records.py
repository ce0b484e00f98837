"""Messages on standard output: their bytes, or JSON objects with the members that REST has."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

import msgspec

from mom_core.ids import id_text
from mom_core.message import Message
from mom_gateway.bodies import MessageOut, ReceivedMessage, show_value

FORMATS: Final = ("value", "json")
FORMAT_HELP: Final = (
    "value: the bytes and a line feed. json: one object a line, with all there is. [default: value]"
)
ResultT = TypeVar("ResultT")
_encoder: Final = msgspec.json.Encoder()


class ConsumedRecord(MessageOut, omit_defaults=True, kw_only=True):
    """A record with its place."""

    topic: str
    partition: int
    append_time_ms: int


def record_line(
    topic: str, partition: int, offset: int, append_time_ms: int, message: Message, form: str
) -> bytes:
    """A record read from a topic, as a line."""
    if form == "value":
        return message.value + b"\n"
    out = ConsumedRecord(
        topic=topic,
        partition=partition,
        append_time_ms=append_time_ms,
        offset=offset,
        timestamp_ms=message.timestamp_ms or 0,
        id=id_text(message.id) if message.id else "",
    )
    return _line(message, out)


def received_line(message: Message, out: ReceivedMessage) -> bytes:
    """A leased message, as a line of JSON."""
    return _line(message, out)


def _line(message: Message, out: MessageOut) -> bytes:
    show_value(message, out)
    # A JSON value is shown as it was sent, and may have line feeds between its members.
    return _encoder.encode(out).replace(b"\n", b" ") + b"\n"


async def write_lines(lines: Sequence[bytes]) -> None:
    """Write and flush, without keeping the event loop from what must go on meanwhile."""
    await asyncio.to_thread(_write, b"".join(lines))


async def finish(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Do ``work`` to its end, also when the command is interrupted meanwhile.

    For what belongs together: what was printed is acknowledged or committed, too.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _write(data: bytes) -> None:
    stream = sys.stdout.buffer
    stream.write(data)
    stream.flush()
