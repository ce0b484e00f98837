"""``mom produce``: lines in, messages out."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mom_cli.command import MomCommand, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.creation import topic_or_create
from mom_cli.failures import ExitCode, PartFailed, error_document, exit_code_of
from mom_cli.lines import (
    Chunk,
    Line,
    LineFormat,
    as_mom_error,
    in_thread,
    lines_of_values,
    message_of_line,
    read_chunks,
)
from mom_cli.output import print_json_line, shown_count
from mom_cli.progress import Progress
from mom_cli.settings import Within, duration
from mom_client.options import DELIVERY_TIMEOUT_MS_DEFAULT
from mom_client.results import Published
from mom_core.errors import ErrorCode, MomError
from mom_core.message import Message
from mom_core.topics import TopicKind

if TYPE_CHECKING:
    from mom_client.engine import Engine

# Failed lines that are named one by one; the others are counted.
FAILURES_SHOWN_MAX: Final = 10
# What is wrong with a message itself: the next one may be fine. Any other failure ends the command,
# or each of a million lines would wait for its own timeout.
_OF_THE_MESSAGE: Final = (ErrorCode.TOO_LARGE, ErrorCode.INVALID_ARGUMENT)


class Tally:
    """What became of the lines so far."""

    def __init__(self, told: Callable[[Line, Published | MomError], None] | None) -> None:
        """``told`` hears of each line, in their order."""
        self._told = told
        self.published = 0
        """What landed, now or before."""
        self.duplicates = 0
        """Of these, what was there before under its dedup id, and was not stored again."""
        self.failed = 0
        self.read_bytes = 0
        self.partitions: Counter[int] = Counter()
        self.durability = ""
        self.last: Published | None = None
        self.failures: list[tuple[Line, MomError]] = []
        """The first ones."""
        self.fatal: MomError | None = None

    def add(self, lines: Sequence[Line], results: Sequence[Published | MomError]) -> None:
        """Count the results of the lines."""
        for line, result in zip(lines, results, strict=True):
            if self._told is not None:
                self._told(line, result)
            if isinstance(result, MomError):
                self._fail(line, result)
            else:
                self.published += 1
                self.duplicates += not result.stored
                self.partitions[result.partition] += 1
                self.last = result
        if self.last is not None:
            self.durability = self.last.durability

    def _fail(self, line: Line, error: MomError) -> None:
        self.failed += 1
        if len(self.failures) < FAILURES_SHOWN_MAX:
            self.failures.append((line, error))
        if error.code not in _OF_THE_MESSAGE and self.fatal is None:
            self.fatal = error


class _Waiting:
    """Says once for each reason that messages wait, and why."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told: set[ErrorCode] = set()

    def tell(self, error: MomError) -> None:
        """A try ended with it; there will be another one."""
        if error.code in self._told:
            return
        self._told.add(error.code)
        self._progress.clear()
        click.echo(
            f"mom: waiting, and trying again for up to {DELIVERY_TIMEOUT_MS_DEFAULT // 1000} s: "
            f"{error.message}",
            err=True,
        )


@click.command(
    cls=MomCommand,
    help="Send messages to a topic or queue: each VALUE, or each line of the files, or of standard "
    "input.\n\nIn `mom dev` an unknown name becomes a topic, or with --queue a queue.\n\n"
    "With -o json, standard output has one line of JSON for each message, in their order: its "
    "position (by which `mom cancel` and `mom reschedule` name one that waits), partition, offset, "
    "duplicate and durability; or for one that was not sent source, line and error. The counts go "
    "to standard error.\n\n"
    + examples(
        "mom produce greetings hello world",
        "mom produce logs --file /var/log/dpkg.log",
        "tail -f app.log | mom produce logs",
        "mom produce orders --key-separator : --file orders.txt      key:value",
        "mom produce jobs hello --delay 1h -o json | jq -r .position | mom cancel jobs",
        """echo '{"key": "a", "value": {"n": 1}}' | mom produce orders --json""",
    ),
)
@click.argument("topic", metavar="TOPIC")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="Send the lines of this file; - is standard input. Repeat for several.",
)
@click.option("--key", help="The key of every message: same key, same partition, same order.")
@click.option("--key-separator", metavar="TEXT", help="Lines are KEY, this text, VALUE.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=VALUE", help="Repeat for several."
)
@click.option("--content-type", help="By default text/plain for what is UTF-8.")
@click.option(
    "--json",
    "is_json",
    is_flag=True,
    help="Lines are JSON objects with value or value_base64, and key, headers, content_type, ...",
)
@click.option("--partition", type=Within(min=0), help="Send to this partition.")
@click.option(
    "--priority", type=Within(0, 9), default=0, help="For a queue: higher ones come first."
)
@click.option(
    "--delay", "delay_ms", type=duration, default=0, help="For a queue: delivered so much later."
)
@click.option(
    "--ttl", "ttl_ms", type=duration, default=0, help="For a queue: not delivered after so long."
)
@click.option(
    "--dedup-id",
    metavar="TEXT",
    help="A message with this id that landed within the topic's dedup window is not sent again.",
)
@click.option("--queue", is_flag=True, help="A name that does not exist becomes a queue.")
@click.option(
    "--create/--no-create", default=None, help="Create a name that does not exist. In mom dev: yes."
)
@click.pass_context
def produce(
    context: click.Context,
    /,
    topic: str,
    values: tuple[str, ...],
    files: tuple[Path, ...],
    partition: int | None,
    queue: bool,
    create: bool | None,
    **line_settings: Any,
) -> None:
    """Send messages."""
    if values and files:
        raise click.UsageError("give values or --file, not both", context)
    form = _line_format(context, **line_settings)
    as_json = shared_of(context).as_json
    progress = Progress(_size_of(files), wanted=not as_json and not values)
    tally = Tally(_print_result if as_json else None)
    waiting = _Waiting(progress)
    started = time.monotonic()

    async def work(engine: Engine) -> None:
        engine.producer.on_retry = waiting.tell
        kind = TopicKind.QUEUE if queue else TopicKind.TOPIC
        await topic_or_create(engine, topic, kind, create)
        async for chunk in in_thread(_chunks(values, files)):
            tally.read_bytes += chunk.read_bytes
            await _send(engine, topic, partition, chunk.lines, form, tally)
            progress.update(tally.published, tally.read_bytes)
            if tally.fatal is not None:
                return

    try:
        with_engine(context, work)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise as_mom_error(error) from None
    finally:
        progress.clear()
        if tally.published or tally.failed:
            _report(topic, tally, time.monotonic() - started, as_json)
    if tally.failed:
        whole = tally.fatal is not None and not tally.published
        raise PartFailed(exit_code_of(tally.fatal) if whole and tally.fatal else ExitCode.FAILED)


def _line_format(
    context: click.Context,
    key: str | None,
    key_separator: str | None,
    headers: tuple[str, ...],
    content_type: str | None,
    is_json: bool,
    priority: int,
    delay_ms: int,
    ttl_ms: int,
    dedup_id: str | None,
) -> LineFormat:
    if key_separator is not None and (is_json or key is not None or not key_separator):
        raise click.UsageError(
            "--key-separator must not be empty, nor go with --key or --json", context
        )
    now_ms = time.time_ns() // 1_000_000
    parsed = {}
    for header in headers:
        name, equals, value = header.partition("=")
        if not (name and equals):
            raise click.UsageError(f"--header {header!r} is not NAME=VALUE", context)
        parsed[name] = value
    return LineFormat(
        is_json,
        key.encode() if key is not None else None,
        key_separator.encode() if key_separator else None,
        parsed or None,
        content_type,
        priority,
        now_ms + delay_ms if delay_ms else 0,
        now_ms + ttl_ms if ttl_ms else 0,
        dedup_id,
    )


def _size_of(files: Sequence[Path]) -> int | None:
    if not files or any(str(path) == "-" for path in files):
        return None
    return sum(path.stat().st_size for path in files)


def _chunks(values: Sequence[str], files: Sequence[Path]) -> Iterator[Chunk]:
    if values:
        return lines_of_values(values)
    if not files and sys.stdin.isatty():
        click.echo("a line is a message; Ctrl-D ends", err=True)
    return read_chunks([None if str(path) == "-" else path for path in files] or [None])


async def _send(
    engine: Engine,
    topic: str,
    partition: int | None,
    lines: Sequence[Line],
    form: LineFormat,
    tally: Tally,
) -> None:
    read: list[tuple[Line, Message | MomError]] = []
    for line in lines:
        try:
            message = message_of_line(line, form)
        except MomError as error:
            read.append((line, error))
            continue
        if message is not None:
            read.append((line, message))
    messages = [one for _, one in read if isinstance(one, Message)]
    sent = iter(await engine.publish_many(topic, messages, partition) if messages else [])
    results = [one if isinstance(one, MomError) else next(sent) for _, one in read]
    tally.add([line for line, _ in read], results)


def _print_result(line: Line, result: Published | MomError) -> None:
    """One line of JSON: where a message landed, or which line was not sent and why."""
    if isinstance(result, MomError):
        print_json_line(
            {"source": line.source, "line": line.number, "error": error_document(result)}
        )
        return
    print_json_line(
        {
            "position": result.position,
            "partition": result.partition,
            "offset": result.offset,
            "id": result.id_text,
            "duplicate": result.duplicate,
            "durability": result.durability,
        }
    )


def _report(topic: str, tally: Tally, seconds: float, as_json: bool) -> None:
    if as_json:
        # Standard output has a line for each message, and nothing else.
        print_json_line(_document(topic, tally), err=True)
        return
    for line, error in tally.failures:
        click.echo(f"mom: {line.place} was not sent: {error.message}", err=True)
    if tally.failed > FAILURES_SHOWN_MAX:
        click.echo(f"mom: and {tally.failed - FAILURES_SHOWN_MAX:,} more were not sent", err=True)
    if tally.fatal is not None:
        click.echo("mom: stopped there; what follows was not sent", err=True)
    click.echo(_summary(topic, tally, seconds), err=True)


def _summary(topic: str, tally: Tally, seconds: float) -> str:
    if tally.published == 1 and not tally.failed and tally.last is not None:
        last = tally.last
        before = "; not stored again: its dedup id was there" if tally.duplicates else ""
        place = f"partition {last.partition}, offset {last.offset}"
        return f"{topic}: {place} ({last.durability}){before}"
    count = len(tally.partitions)
    into = f" in {count} partition{'s' if count != 1 else ''}" if count else ""
    level = f", acknowledged at level {tally.durability}" if tally.durability else ""
    rate = tally.published / max(seconds, 0.001)
    before = f"; {tally.duplicates:,} not stored again, as duplicates" if tally.duplicates else ""
    failed = f"; {tally.failed:,} NOT sent" if tally.failed else ""
    return (
        f"{topic}: {shown_count(tally.published, 'message')}{into}{level}, in {seconds:.2f} s "
        f"({rate:,.0f}/s){before}{failed}"
    )


def _document(topic: str, tally: Tally) -> dict[str, Any]:
    return {
        "topic": topic,
        "published": tally.published,
        "duplicates": tally.duplicates,
        "failed": tally.failed,
        "durability": tally.durability or None,
        "partitions": {str(index): count for index, count in sorted(tally.partitions.items())},
        "stopped_early": tally.fatal is not None,
    }
