"""`invalidator warm`: read hot keys again as soon as they are evicted, until a signal stops it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import EXAMPLES, config_option

if TYPE_CHECKING:
    from invalidator.settings import Settings
    from invalidator.warmer import Warming


@click.command(
    epilog="Exit codes: 0 stopped by a signal, 78 the configuration cannot work, or there is no such loader.\n\n"
    + EXAMPLES
    + "  invalidator warm --loader shop.caching:refill\n"
    + "  invalidator warm --config /etc/invalidator/eu.toml\n"
    + "  systemctl start invalidator-warmer@eu"
)
@config_option
@click.option(
    "--loader",
    metavar="MODULE:FUNCTION",
    help="Function that decides which keys are hot, and reads them; by default warmer.loader.",
)
def command(config: Path | None, loader: str | None) -> None:
    """Read hot keys again as soon as they are evicted, so that no customer waits for the first read.

    The loader is a function of the application. It gets a key, and returns a function that reads the key again through
    the application's own LookAsideCache, or None if the key is not hot. It is searched for in the working directory,
    too. Reads are limited in rate and number ([warmer] in the settings); customers read the rest.

    The warmer runs until SIGTERM or SIGINT. On SIGHUP it reads the configuration again, but not the loader's code. It
    waits for an absent broker.
    """
    from .serving import serve

    sys.path.insert(0, str(Path.cwd()))

    def warming(settings: "Settings", **others: Any) -> "Warming":
        from invalidator.warmer import Warming, loader_of

        return Warming(settings, loader_of(loader or settings.warmer.loader), **others)

    serve(config, warming, port=9872)
