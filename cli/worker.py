"""`invalidator worker`: run one worker until it is told to stop."""

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

    Runs until SIGTERM or SIGINT, then settles what it holds (within worker.stop_within seconds), gives the rest back
    to the broker and exits 0; a second signal ends it at once. SIGHUP reads the configuration again and goes on with
    it, or with the old one where the new one cannot work. An absent broker or node is waited for. It exits 77 when the
    broker refuses it and 78 when its configuration cannot work.
    """
    from .serving import serve

    serve(config, _worker)


def _worker(settings: "Settings", **others: Any) -> "Worker":
    from invalidator.worker.worker import Worker

    return Worker(settings, **others)
