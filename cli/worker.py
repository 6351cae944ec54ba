"""`invalidator worker`: run one worker until a signal stops it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import EXAMPLES, config_option

if TYPE_CHECKING:
    from invalidator.settings import Settings
    from invalidator.worker.worker import Worker


@click.command(
    epilog=EXAMPLES
    + "  invalidator worker --config /etc/invalidator/eu.toml\n"
    + "  INVALIDATOR_CLUSTER=us invalidator worker\n"
    + "  systemctl start invalidator-worker@eu"
)
@config_option
def command(config: Path | None) -> None:
    """Consume product updates and evict their keys from this cluster's nodes.

    The worker runs until SIGTERM or SIGINT. It then settles what it holds (within worker.stop_within seconds), returns
    the rest to the broker and exits with 0; a second signal ends it at once. On SIGHUP it reads the configuration
    again, and keeps the old one if the new one cannot work. It waits for an absent broker or node. It exits with 77 if
    the broker refuses it, and with 78 if its configuration cannot work.
    """
    from .serving import serve

    serve(config, _worker, port=9871)


def _worker(settings: "Settings", **others: Any) -> "Worker":
    from invalidator.worker.worker import Worker

    return Worker(settings, **others)
