"""``platformd completion``: the script that teaches a shell our words."""

from __future__ import annotations

import click

from platformd.cli.options import examples


@click.command(
    epilog=examples(
        'eval "$(platformd completion bash)"                                   # in ~/.bashrc',
        'eval "$(platformd completion zsh)"                                    # in ~/.zshrc',
        "platformd completion fish > ~/.config/fish/completions/platformd.fish",
    )
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell: commands, options, kinds and the names that the daemon has."""
    from click.shell_completion import get_completion_class

    from platformd.cli.main import COMPLETE_VARIABLE

    completion = get_completion_class(shell)
    if completion is not None:
        click.echo(completion(context.find_root().command, {}, "platformd", COMPLETE_VARIABLE).source())
