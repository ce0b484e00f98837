"""``mom run``: run an application's handlers, for development anew after each change."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from mom_cli.command import MomCommand, addresses_of, examples, shared_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mom_client.app import MomApp
    from mom_client.engine import Engine

TARGET_HELP = "FILE.py or MODULE, with :NAME when it has several applications"


@click.command(
    cls=MomCommand,
    help="Run the handlers of a MomApp until SIGTERM or Ctrl-C. Then nothing new is begun, "
    "handlers may finish, what they have handled is acknowledged, and the rest is given back at "
    "once. A second Ctrl-C does not wait for them.\n\n"
    f"APP is {TARGET_HELP}. In `mom dev`, topics and queues that are missing are created.\n\n"
    + examples(
        "mom init worker emails                 write a first application",
        "mom run emails_worker.py --reload      run it, anew after each change of a file",
        "mom run shop.workers:app --url https://mom.example.com",
    ),
)
@click.argument("target", metavar="APP")
@click.option(
    "--reload", is_flag=True, help="Run it anew whenever a Python file beside it changes."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log, where the application sets up no logging of its own.",
)
@click.pass_context
def run(context: click.Context, target: str, reload: bool, log_level: str) -> None:
    """Run an application."""
    if reload:
        from mom_cli.reloading import run_reloading

        context.exit(run_reloading(context, target, log_level))
    app = load(target)
    if not app.sources:
        raise click.UsageError(f"{target} has no handlers: decorate one with @app.worker", context)
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    shared = shared_of(context)
    addresses = list(addresses_of(shared)) if shared.nodes else None
    app.use(addresses, shared.token)

    def on_ready() -> None:
        if not shared.as_json:
            click.echo(f"running {_described(app)}; Ctrl-C ends it", err=True)

    async def work() -> None:
        await _create_missing(app)
        await app.serve(on_ready)

    # Before it serves, SIGTERM is to end it as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    asyncio.run(work())


def _described(app: MomApp) -> str:
    words = [
        f"a worker of {one.topic!r}"
        if one.is_queue
        else f"{one.subscription!r} of topic {one.topic!r}"
        for one in app.sources
    ]
    return ", ".join(words)


async def _create_missing(app: MomApp) -> None:
    """As every command does in a developer's cluster. Elsewhere raises NotFoundError, with how to
    create what is missing."""
    from mom_cli.creation import subscription_or_create, topic_or_create
    from mom_core.topics import TopicKind

    async def create(engine: Engine) -> None:
        for source in app.sources:
            kind = TopicKind.QUEUE if source.is_queue else TopicKind.TOPIC
            route, _ = await topic_or_create(engine, source.topic, kind, None)
            if source.mode == "queue" and not source.is_queue:
                await subscription_or_create(
                    engine, route, source.subscription, "earliest", source.mode
                )
            if source.dead_letter:
                await topic_or_create(engine, source.dead_letter, TopicKind.QUEUE, None)

    async with app.connect() as client:
        await asyncio.wrap_future(client.io.run(create))


# Finding the application.


def load(target: str) -> MomApp:
    """Import what ``target`` names. Raises click.UsageError when no application is there, and
    whatever the module itself raises."""
    from mom_client.app import MomApp

    place, name = split_target(target)
    module = _import_file(Path(place)) if is_file(place) else _import_module(place)
    found = {key: one for key, one in vars(module).items() if isinstance(one, MomApp)}
    if name:
        if name in found:
            return found[name]
        raise click.UsageError(f"{place} has no MomApp called {name!r}{_has(found)}")
    if len({id(one) for one in found.values()}) == 1:
        return next(iter(found.values()))
    if "app" in found:
        return found["app"]
    if not found:
        raise click.UsageError(f"{place} has no MomApp: `app = MomApp()` makes one")
    raise click.UsageError(f"{place} has several applications{_has(found)}; name one: {place}:NAME")


def split_target(target: str) -> tuple[str, str]:
    """The file or module, and the name of the application in it, if one is given."""
    place, colon, name = target.rpartition(":")
    return (place, name) if colon and name.isidentifier() else (target, "")


def is_file(place: str) -> bool:
    """Whether it is a file's path and not a module's name."""
    return place.endswith(".py") or "/" in place


def _has(found: Sequence[str] | dict[str, MomApp]) -> str:
    return f"; it has {', '.join(sorted(found))}" if found else ""


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise click.UsageError(f"there is no file {str(path)!r}")
    # What stands beside it can be imported, as when Python runs the file itself.
    sys.path.insert(0, str(path.resolve().parent))
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{str(path)!r} is not a Python file")
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # A module that the application itself imports.
        raise click.UsageError(
            f"there is no module {error.name!r} here; for a file write {name}.py"
        ) from None
