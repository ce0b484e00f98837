"""``mom completion``: the script that teaches a shell the words of `mom`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from mom_cli.command import LocalCommand, examples


@click.command(
    cls=LocalCommand,
    help="Print the completion script of a shell.\n\n"
    + examples(
        'eval "$(mom completion bash)"                            in ~/.bashrc',
        'eval "$(mom completion zsh)"                             in ~/.zshrc',
        "mom completion fish > ~/.config/fish/completions/mom.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    found = get_completion_class(shell)
    assert found is not None, "click knows these shells"
    click.echo(found(context.find_root().command, {}, "mom", "_MOM_COMPLETE").source())
