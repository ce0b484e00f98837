"""From input to messages: files, standard input and arguments, one message a line.

Reading runs in a thread of its own, since a pipe may say nothing for hours; what is there is handed
on at once, so that a slow writer's line is not held back, and a fast one's come in large chunks.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from mom_core import limits
from mom_core.errors import InvalidArgumentError, MomError, TooLargeError
from mom_core.message import TEXT, Message
from mom_gateway.bodies import decode_item, message_of

READ_BYTES: Final = 256 * limits.KIB
# Chunks that the reading thread may be ahead of the publishing loop.
READ_AHEAD_CHUNKS: Final = 4
# A line longer than the largest message with its JSON form can't be one: it is skipped, not held.
LINE_BYTES_MAX: Final = 2 * limits.MESSAGE_BYTES_MAX_HARD


# What stands for a source where messages are arguments, each a line of its own.
ARGUMENT: Final = "argument"


class Line(NamedTuple):
    """One line of input, without its line feed."""

    source: str
    number: int
    data: bytes
    too_long: bool = False

    @property
    def place(self) -> str:
        """Where it came from, for people."""
        between = "" if self.source == ARGUMENT else "line "
        return f"{self.source} {between}{self.number}"


class LineSplitter:
    """Cuts chunks of one source into lines, exactly at line feeds."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._number = 0
        self._rest = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that the chunk completes."""
        *whole, rest = chunk.split(b"\n")
        for data in whole:
            yield self._line(self._rest + data if self._rest else data)
            self._rest = b""
        self._rest += rest
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest, self._skipping = b"", True

    def finish(self) -> Iterator[Line]:
        """The last line, if the source does not end with a line feed."""
        if self._rest or self._skipping:
            yield self._line(self._rest)
            self._rest = b""

    def _line(self, data: bytes) -> Line:
        self._number += 1
        too_long, self._skipping = self._skipping or len(data) > LINE_BYTES_MAX, False
        return Line(self._source, self._number, b"" if too_long else data, too_long)


class LineFormat(NamedTuple):
    """How a line becomes a message."""

    is_json: bool = False
    key: bytes | None = None
    key_separator: bytes | None = None
    headers: dict[str, str] | None = None
    content_type: str | None = None
    priority: int = 0
    deliver_at_ms: int = 0
    expires_at_ms: int = 0
    dedup_id: str | None = None


def message_of_line(line: Line, form: LineFormat) -> Message | None:
    """The message of a line; None for a blank line of JSON input.

    Raises MomError that says what is wrong with the line.
    """
    if line.too_long:
        raise TooLargeError(
            f"the line is longer than {LINE_BYTES_MAX} bytes; a message has at most "
            f"{limits.MESSAGE_BYTES_MAX_HARD}",
            field="value",
        )
    if form.is_json:
        return _message_of_json(line.data, form) if line.data.strip() else None
    key, value = form.key, line.data
    if form.key_separator is not None:
        key, separator, value = line.data.partition(form.key_separator)
        if not separator:
            shown = form.key_separator.decode(errors="replace")
            raise InvalidArgumentError(
                f"the line has no {shown!r} between key and value", field="key"
            )
    content_type = form.content_type or (TEXT if _is_text(value) else None)
    return Message(
        value,
        key,
        form.headers,
        content_type,
        deliver_at_ms=form.deliver_at_ms,
        expires_at_ms=form.expires_at_ms,
        priority=form.priority,
        dedup_id=form.dedup_id,
    )


def _message_of_json(data: bytes, form: LineFormat) -> Message:
    item = decode_item(data)
    if isinstance(item, MomError):
        raise item
    if item.partition is not None:
        raise InvalidArgumentError(
            "partition can't stand in a line; --partition sends all lines to one", field="partition"
        )
    message = message_of(item, time.time_ns() // 1_000_000)
    message.key = message.key if message.key is not None else form.key
    message.headers = {**(form.headers or {}), **(message.headers or {})} or None
    message.content_type = message.content_type or form.content_type
    message.priority = message.priority or form.priority
    message.deliver_at_ms = message.deliver_at_ms or form.deliver_at_ms
    message.expires_at_ms = message.expires_at_ms or form.expires_at_ms
    message.dedup_id = message.dedup_id or form.dedup_id
    return message


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class Chunk(NamedTuple):
    """Lines that came together, and how many bytes were read for them."""

    lines: list[Line]
    read_bytes: int


def lines_of_values(values: Sequence[str]) -> Iterator[Chunk]:
    """Arguments of the command line as lines."""
    lines = [
        Line(ARGUMENT, number, os.fsencode(value)) for number, value in enumerate(values, start=1)
    ]
    yield Chunk(lines, sum(len(line.data) for line in lines))


def read_chunks(paths: Iterable[Path | None]) -> Iterator[Chunk]:
    """Read files one after the other; None is standard input. Raises OSError."""
    for path in paths:
        descriptor = 0 if path is None else os.open(path, os.O_RDONLY)
        splitter = LineSplitter("standard input" if path is None else str(path))
        try:
            while data := os.read(descriptor, READ_BYTES):
                yield Chunk(list(splitter.feed(data)), len(data))
        finally:
            if path is not None:
                os.close(descriptor)
        yield Chunk(list(splitter.finish()), 0)


async def in_thread(chunks: Iterator[Chunk]) -> AsyncIterator[Chunk]:
    """Iterate in a thread, a bounded number of chunks ahead.

    A daemon thread: a read of a silent pipe can't be interrupted, and must not keep the command
    from ending.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD_CHUNKS)

    def hand_over(item: Chunk | BaseException | None) -> bool:
        try:
            loop.call_soon_threadsafe(queue.put_nowait, item)
        except RuntimeError:
            return False  # The loop has ended meanwhile.
        return True

    def read() -> None:
        try:
            for chunk in chunks:
                room.acquire()
                if not hand_over(chunk):
                    return
            hand_over(None)
        except BaseException as error:
            hand_over(error)

    threading.Thread(target=read, name="mom-read", daemon=True).start()
    while (item := await queue.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        room.release()
        yield item


def as_mom_error(error: OSError) -> MomError:
    """Input that can't be read, in the words of the command."""
    return InvalidArgumentError(f"can't read {error.filename}: {error.strerror}", field="file")
