"""`invalidator check`: whether a worker with this configuration can work."""

import asyncio
import sys
from pathlib import Path

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import print_findings


@click.command(
    epilog="Exit codes, the first that applies: 78 configuration, or a queue that would lose something; 77 refused; "
    "69 broker, node, queue or worker missing; 75 an alarm, dead letters or debts; 0 all is well. What could not be "
    'verified is marked with "?".\n\n'
    + EXAMPLES
    + "  invalidator check\n"
    + "  invalidator check --config /etc/invalidator/eu.toml -o json\n"
    + "  invalidator check || systemctl status 'invalidator-worker@*'"
)
@config_option
@output_option
def command(config: Path | None, as_json: bool) -> None:
    """Check configuration, broker, permissions, queues, workers and nodes; say how to mend what is wrong.

    Permissions are really tried, each with something that the broker refuses either way; nodes are asked for a fence.
    Nothing is changed. Arguments, policies and bindings are read from the management API, see [management].
    """
    from invalidator.operate.check import check
    from invalidator.operate.findings import worst
    from invalidator.settings import find

    settings = load_settings(config)
    source = str(find(config) or "no file, defaults and environment")
    findings = asyncio.run(check(settings, source=source))
    print_findings(findings, as_json=as_json)
    sys.exit(worst(findings))
