"""`invalidator warm`: read hot keys again as soon as they are evicted, until told to stop."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import EXAMPLES, config_option

if TYPE_CHECKING:
    from invalidator.settings import Settings
    from invalidator.warmer import Warming


@click.command(
    epilog="Exit codes: 0 told to stop, 78 its configuration cannot work, or there is no such loader.\n\n"
    + EXAMPLES
    + "  invalidator warm --loader shop.caching:refill\n"
    + "  invalidator warm --config /etc/invalidator/eu.toml\n"
    + "  systemctl start invalidator-warmer@eu"
)
@config_option
@click.option(
    "--loader", metavar="MODULE:FUNCTION", help="What says which keys are hot, and reads them; else warmer.loader."
)
def command(config: Path | None, loader: str | None) -> None:
    """Read hot keys again as soon as they are evicted, so that no customer waits for the first read.

    The loader is a function of the application's: it is given a key, and returns what reads it again through the
    application's own LookAsideCache, or None where the key is not hot. It is looked for in the working directory, too.
    Reads are limited in rate and number ([warmer] in the settings); what is too much is left to customers.

    Runs until SIGTERM or SIGINT; SIGHUP reads the configuration again, and not the loader's code. An absent broker is
    waited for.
    """
    from .serving import serve

    sys.path.insert(0, str(Path.cwd()))

    def warming(settings: "Settings", **others: Any) -> "Warming":
        from invalidator.warmer import Warming, loader_of

        return Warming(settings, loader_of(loader or settings.warmer.loader), **others)

    serve(config, warming)
