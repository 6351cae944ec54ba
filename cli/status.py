"""`invalidator status`: show the state of every cluster."""

import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import echo, print_findings, print_json, print_table

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.diagnosis.status import ClusterStatus, Status

#: Seconds between two readings with ``--watch``. RabbitMQ itself updates its counts every 5.
WATCH_SECONDS = 2.0


@click.command(
    epilog="Exit codes, the first that applies: 77 refused; 69 no broker, queue, binding or worker; "
    "75 dead letters, debts, a gap, an alarm, or events that no worker settles; 0 healthy.\n\n"
    + EXAMPLES
    + "  invalidator status\n"
    + "  invalidator status --watch\n"
    + "  invalidator status -o json | jq '.clusters[] | {cluster, waiting, dead}'"
)
@config_option
@output_option
@click.option("--watch", is_flag=True, help=f"Repeat every {WATCH_SECONDS:g} seconds, until Ctrl-C.")
def command(config: Path | None, as_json: bool, watch: bool) -> None:
    """Show every cluster on this broker: events, workers, dead letters, parked debts, and each fault with its fix.

    The figures come from the management API (see [management]) and may be 5 seconds old. Without it, only this
    cluster's queues are inspected over AMQP, and missing figures are marked "?".
    """
    from invalidator.operate.diagnosis.status import status
    from invalidator.operate.findings import worst

    settings, code = load_settings(config), 0
    with suppress(KeyboardInterrupt):
        while True:
            found = asyncio.run(status(settings))
            code = worst(found.findings)
            if watch and sys.stdout.isatty():
                click.clear()
            _print(found, as_json=as_json)
            if not watch:
                break
            time.sleep(WATCH_SECONDS)
    sys.exit(code)


def _print(found: "Status", *, as_json: bool) -> None:
    if as_json:
        from invalidator.operate.diagnosis.status import as_fields

        print_json(as_fields(found))
        return
    header = ("CLUSTER", "WORKERS", "WAITING", "HELD", "IN/s", "OUT/s", "DEAD", "PARKED")
    print_table((_row(cluster) for cluster in found.clusters), header=header)
    click.echo()
    if found.findings:
        print_findings(found.findings, as_json=False)
    if not any(finding.exit_code for finding in found.findings):
        unverified = any(finding.level == "unverified" for finding in found.findings)
        echo(click.style(f"healthy{' as far as can be seen' if unverified else ''}", fg="green"))


def _row(cluster: "ClusterStatus") -> tuple[object, ...]:
    counted = (cluster.workers, cluster.waiting, cluster.held, cluster.published, cluster.settled, cluster.dead)
    parked = ", ".join(f"{label}: {debts}" for label, debts in cluster.parked.items())
    return (cluster.cluster, *("?" if one is None else one for one in counted), parked or "-")
