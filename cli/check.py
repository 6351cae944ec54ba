"""`invalidator check`: check that a worker with this configuration can work."""

import asyncio
import sys
from pathlib import Path

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import print_findings, progress


@click.command(
    epilog="Exit codes, the first that applies: 78 configuration, or a queue that would lose messages; 77 refused; "
    "69 broker, node, queue or worker missing; 75 an alarm, dead letters or debts; 0 all is well. A fact that could "
    'not be verified is marked with "?".\n\n'
    + EXAMPLES
    + "  invalidator check\n"
    + "  invalidator check --sample 100\n"
    + "  invalidator check --offline --config invalidator.toml\n"
    + "  invalidator check --config /etc/invalidator/eu.toml -o json\n"
    + "  invalidator check || systemctl status 'invalidator-worker@*'"
)
@config_option
@output_option
@click.option("--sample", "count", type=click.IntRange(min=1), help="Also try the rules on this number of live events.")
@click.option("--offline", is_flag=True, help="Only validate the configuration; use no network.")
@click.option("--within", default=60.0, show_default=True, help="Seconds that --sample waits for them.")
def command(config: Path | None, as_json: bool, count: int | None, offline: bool, within: float) -> None:
    """Check configuration, broker, permissions, queues, workers and nodes, and name the fix for each fault.

    Each permission is tried with an operation that the broker refuses in any case, and each node with an empty
    eviction. Nothing is changed. Arguments, policies and bindings are read from the management API, see [management].
    --offline validates the configuration alone, for CI and before a reload. --sample tries the rules on live events,
    read through a temporary queue. An event that would be a dead letter means exit code 78.
    """
    from invalidator.operate.diagnosis.check import check, check_offline
    from invalidator.operate.findings import worst
    from invalidator.operate.tail import sample
    from invalidator.settings import find

    if offline and count:
        raise click.UsageError("--sample needs the broker: leave out --offline")
    settings = load_settings(config)
    source = str(find(config) or "no file, defaults and environment")
    findings = check_offline(settings, source=source) if offline else asyncio.run(check(settings, source=source))
    if count:
        with progress("events", count) as advance:
            findings += asyncio.run(sample(settings, count, within=within, advance=advance))
    print_findings(findings, as_json=as_json)
    sys.exit(worst(findings))
