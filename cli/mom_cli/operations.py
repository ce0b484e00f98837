"""``mom operation``: work that goes on by itself, such as a redrive of dead letters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from mom_cli.command import LazyGroup, examples, shared_of
from mom_cli.connection import with_engine
from mom_cli.output import print_facts, print_json, print_table, shown_time

if TYPE_CHECKING:
    from mom_client.engine import Engine
    from mom_client.results import Operation

_ID = click.argument("operation_id", metavar="ID")


@click.group(
    cls=LazyGroup,
    help="Operations: work that goes on by itself, such as a redrive of dead letters.\n\n"
    + examples("mom operation list", "mom operation show ID --wait", "mom operation cancel ID"),
)
def operation() -> None:
    """The group of commands."""


@operation.command(
    "list",
    help="List operations, the newest first: those under way, and the last that ended.\n\n"
    + examples("mom operation list --queue mail.dlq"),
)
@click.option("--queue", default="", help="Only this queue's.")
@click.pass_context
def list_operations(context: click.Context, queue: str) -> None:
    """List operations."""
    found = with_engine(context, lambda engine: engine.operations(queue))
    if shared_of(context).as_json:
        print_json(msgspec.to_builtins(found))
        return
    print_table(
        ["ID", "KIND", "QUEUE", "STATE", "DONE", "TOTAL", "LEFT", "BEGUN"],
        (
            [
                one.operation_id,
                one.kind,
                one.queue,
                one.state,
                one.done,
                one.total,
                one.left,
                shown_time(one.created_at_ms),
            ]
            for one in found
        ),
        "no operations",
    )


@operation.command(
    help="Show how far an operation is.\n\n"
    + examples("mom operation show ID", "mom operation show ID --wait"),
)
@_ID
@click.option("--wait", is_flag=True, help="Show how far it is until it has ended.")
@click.pass_context
def show(context: click.Context, operation_id: str, wait: bool) -> None:
    """Show an operation."""

    async def work(engine: Engine) -> Operation:
        if not wait:
            return await engine.operation(operation_id)
        from mom_client.operations import ended

        with shown_progress(operation_id) as told:
            return await ended(engine, operation_id, told)

    _print(context, with_engine(context, work))


@operation.command(
    help="End an operation early. What is on its way still arrives; one that has ended is no "
    "error.\n\n" + examples("mom operation cancel ID"),
)
@_ID
@click.pass_context
def cancel(context: click.Context, operation_id: str) -> None:
    """End an operation early."""
    found = with_engine(context, lambda engine: engine.cancel_operation(operation_id))
    _print(context, found)
    if not found.goes_on:
        click.echo(
            f"operation {operation_id} had ended before ({found.state}): nothing was left to "
            "cancel",
            err=True,
        )


def _print(context: click.Context, found: Operation) -> None:
    if shared_of(context).as_json:
        print_json(msgspec.to_builtins(found))
    else:
        print_operation(found)


def print_operation(found: Operation) -> None:
    """An operation for people."""
    facts: list[tuple[str, object]] = [
        ("operation", found.operation_id),
        ("kind", found.kind),
        ("queue", found.queue),
        ("to", found.to or "where each died"),
        ("state", found.state),
        ("done", f"{found.done:,} of {found.total:,}" if found.total else found.done),
    ]
    if found.left:
        facts.append(("left", found.left))
    if found.error:
        facts.append(("error", found.error))
    facts.append(("begun", shown_time(found.created_at_ms)))
    if found.ended_at_ms:
        facts.append(("ended", shown_time(found.ended_at_ms)))
    print_facts(facts)


@contextmanager
def shown_progress(operation_id: str) -> Iterator[Callable[[Operation], None]]:
    """A line on the terminal that says how far an operation is; clears it at the end."""
    on = sys.stderr.isatty()
    said = False

    def told(found: Operation) -> None:
        nonlocal said
        if not on and not said and found.goes_on:
            click.echo(f"operation {operation_id} goes on; waiting for its end", err=True)
            said = True
        if on:
            waits = f": {found.error}" if found.error else ""
            line = f"{found.state}: {found.done:,} of {found.total:,}{waits}"
            click.echo(f"\r\033[K{line[:100]}", nl=False, err=True)

    try:
        yield told
    finally:
        if on:
            click.echo("\r\033[K", nl=False, err=True)
