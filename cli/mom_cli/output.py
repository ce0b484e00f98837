"""Standard output: tables for people, JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
import msgspec

from mom_core.quantities import format_bytes, format_duration, format_rate

_VALUE_SHOWN_MAX: Final = 48


def print_json(document: Any) -> None:
    """One document, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2))


def print_json_line(document: Any, *, err: bool = False) -> None:
    """One document on a line of its own, on standard output or standard error."""
    click.echo(msgspec.json.encode(document), err=err)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table; numbers to the right. ``empty`` stands in its place on standard error if it has no
    rows.
    """
    lines = [[_cell(value) for value in row] for row in rows]
    if not lines:
        click.echo(empty, err=True)
        return
    kinds = [all(_is_number(line[index]) for line in lines) for index in range(len(titles))]
    widths = [
        max(len(line[index]) for line in [list(titles), *lines]) for index in range(len(titles))
    ]
    for line in [list(titles), *lines]:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, kinds, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    listed = [(name, _cell(value)) for name, value in facts]
    width = max((len(name) for name, _ in listed), default=0)
    for name, value in listed:
        click.echo(f"{name.ljust(width)}  {value}".rstrip())


def shown_text(value: bytes) -> str:
    """The beginning of a value, on one line."""
    text = value.decode(errors="replace").replace("\n", " ")
    return text if len(text) <= _VALUE_SHOWN_MAX else f"{text[: _VALUE_SHOWN_MAX - 3]}..."


def shown_time(time_ms: int) -> str:
    """A moment in UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown_age(age_ms: object) -> str:
    """About how old something is, for people; None is nothing."""
    if not isinstance(age_ms, int):
        return ""
    seconds = age_ms // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def shown_count(count: int, noun: str) -> str:
    """Such as ``1 message`` and ``2,000 messages``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shown_rough_bytes(size_bytes: int) -> str:
    """About how many bytes, for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


_NONE_AT_ZERO: Final = (
    "retry_backoff_ms",
    "retry_backoff_max_ms",
    "message_ttl_ms",
    "dedup_window_ms",
)


def shown_setting(name: str, value: object) -> object:
    """A setting of a topic as people write it."""
    if name == "created_at_ms" and isinstance(value, int):
        return shown_time(value)
    if name == "retention_ms" and value == 0:
        return "no limit by time"
    if name == "messages_max" and value == 0:
        return "no bound"
    if name == "stalled_since_ms" and isinstance(value, int):
        return shown_time(value) if value else ""
    if name == "rate_per_s" and isinstance(value, float):
        return format_rate(value) if value else "none"
    if name in _NONE_AT_ZERO and value == 0:
        return "none"
    if name.endswith("_ms") and isinstance(value, int):
        return format_duration(value)
    if "bytes" in name and isinstance(value, int):
        return format_bytes(value)
    return value


def shown_name(name: str) -> str:
    """The name of a setting without its unit, where the value shows one."""
    return {"created_at_ms": "created", "message_bytes_max": "message_max"}.get(
        name, name.removesuffix("_ms").removesuffix("_per_s")
    )


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").isdigit()
