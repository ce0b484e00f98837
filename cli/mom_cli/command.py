"""What all commands share: options of the connection and the output, and lazy loading.

``mom --help`` must answer at once, so the modules of the commands, and with them gRPC, are imported
only when one of their commands runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, NamedTuple

import click
from click.shell_completion import CompletionItem

from mom_cli.failures import ExitCode

DEFAULT_NODES: Final = "127.0.0.1:7071"


@dataclass
class Shared:
    """The values of the options that every command takes."""

    nodes: str | None = None
    token: str | None = None
    output: str | None = None

    @property
    def as_json(self) -> bool:
        """Whether standard output is for a program."""
        return self.output == "json"


def shared_of(context: click.Context) -> Shared:
    """The shared values of a command's run, whichever level of the command line gave them."""
    return context.ensure_object(Shared)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Store a shared option; what stands nearer to the end of the command line wins."""
    shared = shared_of(context)
    name = parameter.name or ""
    given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    if value is not None and (given or getattr(shared, name) is None):
        setattr(shared, name, value)


def shared_options() -> list[click.Option]:
    """The options that every command takes, before or after its name."""
    settings: dict[str, Any] = {"expose_value": False, "is_eager": True, "callback": _keep}
    return [
        click.Option(
            ["--nodes", "--url"],
            envvar=["MOM_URL", "MOM_NODES"],
            show_envvar=True,
            metavar="HOST:PORT,...|URL",
            help="Nodes or masters to ask first, from which the others are learnt; or the URL of a "
            f"gateway, where nodes can't be reached. [default: {DEFAULT_NODES}]",
            **settings,
        ),
        click.Option(
            ["--token"],
            envvar="MOM_TOKEN",
            show_envvar=True,
            metavar="TOKEN",
            help="Bearer token, where the cluster asks for one.",
            **settings,
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            envvar="MOM_OUTPUT",
            help="For people, or for programs: then standard output is JSON and nothing else. "
            "[default: table]",
            **settings,
        ),
    ]


class MomCommand(click.Command):
    """A command that takes the shared options as well, and minds a reader who goes away."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.shared_parameters = self.pick_shared(shared_options())
        self.params = [*self.params, *self.shared_parameters]

    def pick_shared(self, options: list[click.Option]) -> list[click.Option]:
        """Which of the shared options this command takes: all."""
        return options

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the command's own options first."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                continue  # The line of usage names it, and the text says what it is.
            record = parameter.get_help_record(ctx)
            if record is not None:
                (shared if parameter in self.shared_parameters else own).append(record)
        for title, records in (("Options", own), ("Options of all commands", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and write everything out."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # The interpreter flushes once more at its end, and must not fail there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(ExitCode.BROKEN_PIPE)
        return result


class LocalCommand(MomCommand):
    """A command that does not talk to a cluster."""

    def pick_shared(self, options: list[click.Option]) -> list[click.Option]:
        """Only the form of the output."""
        return [option for option in options if option.name == "output"]


class LazyCommand(NamedTuple):
    """Where a command is, and its line in the list of commands."""

    where: str
    """``module:attribute`` below mom_cli."""
    help: str


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, and suggests near names."""

    command_class = MomCommand

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **settings: Any):
        super().__init__(*args, **settings)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their definition: the ones needed first come first."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now when it is a lazy one."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name].where.partition(":")
        command = getattr(import_module(f"mom_cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        records = [(name, lazy.help) for name, lazy in self._lazy.items()]
        records += [(name, one.get_short_help_str(80)) for name, one in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(records)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so, without importing them, and the group's own options."""
        found = [
            CompletionItem(name, help=lazy.help)
            for name, lazy in self._lazy.items()
            if name.startswith(incomplete)
        ]
        found += [
            CompletionItem(name, help=one.get_short_help_str())
            for name, one in self.commands.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with a suggestion for a name that is not there."""
        name = args[0] if args else ""
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        from difflib import get_close_matches

        near = get_close_matches(name, self.list_commands(ctx), n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise click.UsageError(f"there is no command {name!r}.{hint}", ctx)


def examples(*lines: str) -> str:
    """The last part of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def addresses_of(shared: Shared) -> Sequence[str]:
    """The addresses to ask first. Raises click.UsageError when one is none."""
    # Here and not above: importing the client loads more than `mom --help` needs.
    from mom_client.addresses import check_address
    from mom_core.errors import InvalidArgumentError

    addresses = []
    for part in (shared.nodes or DEFAULT_NODES).split(","):
        try:
            addresses.append(check_address(part.strip().removeprefix("mom://").rstrip("/")))
        except InvalidArgumentError as error:
            raise click.UsageError(f"--nodes: {error.message}") from None
    return addresses
