"""What several commands share: the configuration, and the form of what is printed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]

#: A help epilog whose lines click must not join.
EXAMPLES = "\b\nExamples:\n"


def config_option(command: Command) -> Command:
    """``--config FILE``, as a `Path` or None; see `invalidator.settings.find` for what is read without it."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Settings in TOML. Without it: $INVALIDATOR_CONFIG, ./invalidator.toml, /etc/invalidator/invalidator.toml.",
    )(command)


def output_option(command: Command) -> Command:
    """``-o text|json``."""
    return click.option(
        "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="For people, or for programs."
    )(command)
