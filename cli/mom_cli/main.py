"""The entry point: parses, runs, and turns what went wrong into one sentence and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from mom_cli.command import LazyCommand, LazyGroup, Shared, examples, shared_options
from mom_cli.failures import EXIT_CODES_HELP, ExitCode, PartFailed, report

COMMANDS = {
    "dev": LazyCommand("dev:dev", "Run all of MOM in this process, for development."),
    "topic": LazyCommand("topics:topic", "Create, list, describe, alter and delete topics."),
    "queue": LazyCommand(
        "topics:queue", "Create, list, describe, alter, pause, purge and delete queues."
    ),
    "subscription": LazyCommand(
        "subscriptions:subscription",
        "Create, list, describe, alter, seek and delete subscriptions.",
    ),
    "produce": LazyCommand("produce:produce", "Send messages to a topic or queue."),
    "consume": LazyCommand("consume:consume", "Read messages of a topic."),
    "receive": LazyCommand("receive:receive", "Lease messages of a queue."),
    "ack": LazyCommand("settle:ack", "Acknowledge received messages."),
    "nack": LazyCommand("settle:nack", "Give received messages back."),
    "extend": LazyCommand("settle:extend", "Lengthen the leases of received messages."),
    "dead": LazyCommand("dead_letters:dead", "List dead letters, and send them back."),
    "operation": LazyCommand("operations:operation", "Show and cancel what goes on by itself."),
    "cancel": LazyCommand("reschedule:cancel", "Cancel messages that wait to be delivered."),
    "reschedule": LazyCommand("reschedule:reschedule", "Move waiting messages to another time."),
    "run": LazyCommand("run:run", "Run the handlers of an application."),
    "init": LazyCommand("init:init", "Write a first application and its test."),
    "cluster": LazyCommand("cluster:cluster", "Show nodes, partitions and the store."),
    "status": LazyCommand("status:status", "Show how a cluster on Kubernetes is."),
    "connect": LazyCommand("connect:connect", "Open a tunnel to a cluster on Kubernetes."),
    "token": LazyCommand("tokens:token", "Create, list and revoke access tokens."),
    "completion": LazyCommand("completion:completion", "Print the completion script of a shell."),
}


def _show_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"mom {version('mom-mq')}")
    context.exit()


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    params=shared_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES_HELP,
    help="MOM: topics that can be replayed, and queues whose messages are leased to one worker.\n\n"
    + examples(
        "mom dev                                run a whole MOM here",
        "mom topic create logs --partitions 3",
        "mom produce logs --file app.log        a line is a message",
        "mom consume logs --until-end",
        "mom receive jobs --ack --follow        work on a queue",
    ),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def mom(context: click.Context) -> None:
    """The root of all commands."""
    context.ensure_object(Shared)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    shared = Shared()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result: Any = mom.main(words, "mom", standalone_mode=False, obj=shared)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        return _report_usage(error, shared)
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except PartFailed as error:
        return error.exit_code
    except Exception as error:
        return _report_error(error, shared)
    return result if isinstance(result, int) else ExitCode.OK


def _report_usage(error: click.ClickException, shared: Shared) -> int:
    message = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    report(f"{message}{hint}", {"code": "usage", "message": message}, shared.as_json)
    return error.exit_code


def _report_error(error: Exception, shared: Shared) -> int:
    from mom_cli.failures import error_document, exit_code_of
    from mom_core.errors import ErrorCode, MomError

    if not isinstance(error, MomError):
        raise error
    message = error.message
    if error.code is ErrorCode.UNAUTHENTICATED and not shared.token:
        message = (
            "the cluster asks for a token: give one by --token or MOM_TOKEN; an administrator "
            "makes it with `mom token create`"
        )
    report(message, error_document(error), shared.as_json)
    return exit_code_of(error)


def main() -> None:
    """The console script."""
    sys.exit(run())
