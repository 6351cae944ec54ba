"""`invalidator completion`: print the script with which a shell completes commands and options."""

import click

from .options import EXAMPLES


@click.command(
    epilog="Exit codes: 0 printed, 2 usage.\n\n"
    + EXAMPLES
    + "  invalidator completion bash > /etc/bash_completion.d/invalidator\n"
    + "  invalidator completion zsh > /usr/local/share/zsh/site-functions/_invalidator\n"
    + "  invalidator completion fish > ~/.config/fish/completions/invalidator.fish"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script with which a shell completes commands and options."""
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(ctx.find_root().command, {}, "invalidator", "_INVALIDATOR_COMPLETE").source())
