"""Command-line options that all servers share; each may come from the environment, too."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import click

from mom_core.errors import InvalidArgumentError
from mom_process.addresses import Address
from mom_process.log_lines import LOG_FORMATS, LOG_LEVELS

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

# A cluster token that could be guessed is worse than none.
CLUSTER_TOKEN_LENGTH_MIN: Final = 16
ALLOW_FLAG: Final = "--allow-unauthenticated-network-access"


class AuthMode(StrEnum):
    """When callers need a token."""

    AUTO = "auto"
    """Wherever the process listens beyond loopback."""
    REQUIRED = "required"
    DISABLED = "disabled"


def flag(name: str, **settings: Any) -> Callable[[CommandT], CommandT]:
    """A click option ``--name`` with the environment variable ``MOM_NAME``, shown in the help."""
    variable = "MOM_" + name.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("show_default", settings.get("default") not in (None, ""))
    return click.option(name, envvar=variable, show_envvar=True, **settings)


def options(*groups: Callable[[Any], Any]) -> Callable[[CommandT], CommandT]:
    """One decorator of several options, which the help then lists in this order."""

    def decorate(command: CommandT) -> CommandT:
        for option in reversed(groups):
            command = option(command)
        return command

    return decorate


def access_flags() -> tuple[Callable[[Any], Any], ...]:
    return (
        flag(
            "--auth",
            type=click.Choice([mode.value for mode in AuthMode]),
            default=AuthMode.AUTO.value,
            help="Whether callers need a token. auto: yes beyond loopback.",
        ),
        flag(
            "--cluster-token-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            default=None,
            help="A file with the secret that the cluster's processes share. The variable "
            "MOM_CLUSTER_TOKEN may hold the secret itself.",
        ),
        click.option("--cluster-token", envvar="MOM_CLUSTER_TOKEN", hidden=True, default=None),
        flag(
            ALLOW_FLAG,
            is_flag=True,
            default=False,
            help="Serve everyone who can reach this host, without tokens. All data is theirs.",
        ),
    )


def version_flag(program: str) -> Callable[[CommandT], CommandT]:
    """``--version``."""
    return click.version_option(
        package_name="mom-mq", prog_name=program, message="%(prog)s %(version)s"
    )


def log_flags() -> tuple[Callable[[Any], Any], ...]:
    return (
        flag("--log-format", type=click.Choice(LOG_FORMATS), default="human", help="Log lines."),
        flag("--log-level", type=click.Choice(LOG_LEVELS), default="info", help="How much to log."),
    )


class Access(NamedTuple):
    """How a server treats its callers."""

    open_to_all: bool
    cluster_token: str | None


def access_of(
    listen: Address,
    *,
    auth: str,
    allow_unauthenticated: bool,
    cluster_token: str | None,
    cluster_token_file: Path | None,
) -> Access:
    """Decide whether callers need tokens.

    Raises InvalidArgumentError when the process would stand open beyond loopback without having
    been told so by its flag, or needs a cluster token that is missing or short.
    """
    if cluster_token_file is not None:
        cluster_token = cluster_token_file.read_text().strip()
    if _is_open(listen, AuthMode(auth), allow_unauthenticated):
        return Access(True, cluster_token or None)
    if len(cluster_token or "") < CLUSTER_TOKEN_LENGTH_MIN:
        raise InvalidArgumentError(
            f"with authentication on, the cluster's processes need a shared secret of at least "
            f"{CLUSTER_TOKEN_LENGTH_MIN} characters: set MOM_CLUSTER_TOKEN or --cluster-token-file "
            "to the same for all of them",
            field="cluster-token",
        )
    return Access(False, cluster_token)


def _is_open(listen: Address, auth: AuthMode, allowed: bool) -> bool:
    if auth is AuthMode.REQUIRED:
        return False
    if listen.is_loopback or allowed:
        return True
    if auth is AuthMode.DISABLED:
        raise InvalidArgumentError(
            f"{listen} can be reached from the network, and --auth=disabled would give everyone "
            f"all data. Listen on 127.0.0.1, turn authentication on, or say {ALLOW_FLAG}",
            field="auth",
        )
    return False


def open_notice(listen: Address) -> str:
    """What to log at the start of a server that needs no tokens."""
    if listen.is_loopback:
        return f"authentication is off: any process of this machine may use {listen}"
    return f"authentication is off: EVERYONE who can reach {listen} may read and delete everything"
