"""A group of commands that suggests the nearest one for a misspelt name."""

from difflib import get_close_matches

import click


class Suggesting(click.Group):
    """A group that suggests the nearest command for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            nearest = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f', did you mean "{nearest[0]}"?' if nearest else ""
            raise click.UsageError(f'no such command "{args[0]}"{hint}', ctx) from None
