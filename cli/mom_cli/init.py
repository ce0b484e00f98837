"""``mom init``: write a first application and its test."""

from __future__ import annotations

from keyword import iskeyword
from pathlib import Path
from typing import Final

import click

from mom_cli.command import LazyGroup, LocalCommand, examples, shared_of
from mom_core.errors import ConflictError

# Names that the written files use for something else.
_TAKEN: Final = frozenset({"app", "handle", "left", "Client", "None", "True", "False"})

_APP: Final = '''\
"""A worker of the queue {queue}. Run it: mom run {module}.py --reload"""

import msgspec

from mom_client import MomApp

app = MomApp()


class {type}(msgspec.Struct):
    """What a message of {queue} holds, as JSON."""

    to: str
    text: str = ""


@app.worker("{queue}", concurrency=20)
async def handle({argument}: {type}) -> None:
    """Handle one message: it is acknowledged when this returns, and comes again when it raises."""
    print(f"to {{{argument}.to}}: {{{argument}.text}}", flush=True)
'''

_TEST: Final = '''\
"""Tests of {module}.py. Run them: pytest test_{module}.py"""

import asyncio

import pytest
from {module} import {type}, app, handle

from mom_client import Client
from mom_client.testing import TestBroker


def test_a_handler_is_a_function(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(handle({type}(to="ada", text="hello")))
    assert capsys.readouterr().out == "to ada: hello\\n"


def test_a_message_is_handled_and_acknowledged(capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        async with TestBroker() as broker:
            client = broker.client()
            await client.create_queue("{queue}")
            await client.publish("{queue}", {type}(to="ada", text="hello"))
            async with app.running(client), asyncio.timeout(30):
                while await left(client):
                    await asyncio.sleep(0.01)

    asyncio.run(work())
    assert capsys.readouterr().out == "to ada: hello\\n"


async def left(client: Client) -> int:
    """How many messages are not acknowledged."""
    counts = [one.subscriptions[0] for one in await client.describe("{queue}")]
    return sum(one.ready + one.leased + one.delayed for one in counts)
'''


@click.group(
    cls=LazyGroup,
    help="Write a first application, to be changed into your own.\n\n"
    + examples("mom init worker emails"),
)
def init() -> None:
    """The group of what can be written."""


@init.command(
    cls=LocalCommand,
    help="Write a worker of the queue QUEUE, and its test. Nothing that is there is written over."
    "\n\n"
    + examples(
        "mom init worker emails                 writes emails_worker.py, test_emails_worker.py",
        "mom init worker emails --folder shop",
    ),
)
@click.argument("queue", metavar="QUEUE")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Where to; it is made when it is not there. [default: here]",
)
@click.pass_context
def worker(context: click.Context, queue: str, folder: Path) -> None:
    """Write a worker."""
    from mom_core.names import check_name

    check_name(queue, "queue")
    words = _words(queue)
    module = "_".join([*words, "worker"])
    names = {
        "queue": queue,
        "module": module,
        "type": _type_name(words),
        "argument": _argument_name(words),
    }
    texts = {folder / f"{module}.py": _APP, folder / f"test_{module}.py": _TEST}
    present = [str(path) for path in texts if path.exists()]
    if present:
        raise ConflictError(
            f"{' and '.join(present)} would be written over; name another --folder", field="folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text.format(**names))
    _say(context, queue, [str(path) for path in texts])


def _say(context: click.Context, queue: str, paths: list[str]) -> None:
    if shared_of(context).as_json:
        from mom_cli.output import print_json

        print_json({"files": paths})
        return
    click.echo(
        f"wrote {' and '.join(paths)}. With `mom dev` running:\n"
        f"  mom run {paths[0]} --reload\n"
        f'  mom produce {queue} \'{{"to": "ada", "text": "hello"}}\''
    )


def _words(queue: str) -> list[str]:
    words = "".join(one if one.isalnum() else " " for one in queue.lower()).split()
    return words if words[0][0].isalpha() else ["queue", *words]


def _singular(words: list[str]) -> list[str]:
    *before, last = words  # A message of emails is an email.
    is_plural = last.endswith("s") and not last.endswith("ss") and len(last) > 2
    return [*before, last[:-1] if is_plural else last]


def _type_name(words: list[str]) -> str:
    name = "".join(one.capitalize() for one in _singular(words))
    return f"{name}Message" if name in _TAKEN else name


def _argument_name(words: list[str]) -> str:
    name = "_".join(_singular(words))
    return f"{name}_" if iskeyword(name) or name in _TAKEN else name
