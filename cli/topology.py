"""`invalidator topology`: exchanges, queues and bindings, declared, verified or exported."""

import asyncio
import json
import sys
from pathlib import Path

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import plural, print_findings, print_json, print_table, printable


@click.group(
    epilog="Exit codes: those of each command; see its --help.\n\n"
    + EXAMPLES
    + "  invalidator topology declare\n"
    + "  invalidator topology verify -o json\n"
    + "  invalidator topology export > definitions.json"
)
def command() -> None:
    """Declare, verify or export exchanges, queues and bindings of this configuration's cluster."""


@command.command(
    epilog="Exit codes: 0 all is there, 69 unreachable, 77 refused, 78 something of that name has other arguments.\n\n"
    + EXAMPLES
    + "  invalidator topology declare\n"
    + "  INVALIDATOR_CLUSTER=us invalidator topology declare"
)
@config_option
@output_option
def declare(config: Path | None, as_json: bool) -> None:
    """Make what is missing, as a worker with declare = "active" does.

    What is there is left as it is; where it has other arguments, the first of them is named.
    """
    from invalidator.broker.topology import Topology
    from invalidator.operate.topology import declared

    settings = load_settings(config)
    asyncio.run(declared(settings))
    topology = Topology.of(settings)
    rows = [("exchange", name, kind) for name, kind in topology.exchanges().items()]
    rows += [("queue", queue.name, "quorum") for queue in topology.queues()]
    rows += [("binding", f"{topology.exchange} -> {topology.queue}", "")]
    if as_json:
        print_json([{"what": what, "name": name} for what, name, _ in rows])
    else:
        print_table(rows, header=("WHAT", "NAME", "TYPE"))


@command.command(
    epilog="Exit codes: 0 verified, 69 the broker or its management API is unreachable, or something is missing, "
    "77 refused, 78 something would lose events or debts.\n\n"
    + EXAMPLES
    + "  invalidator topology verify\n"
    + "  INVALIDATOR_MANAGEMENT__URL=https://rabbit.example:15671 invalidator topology verify -o json"
)
@config_option
@output_option
def verify(config: Path | None, as_json: bool) -> None:
    """Compare type, arguments, policies and bindings with what losing nothing needs.

    They are read from RabbitMQ's management API (see [management]); where it cannot be asked, existence is looked at
    and the rest is "not verified", with the reason. Policies may be 5 seconds old there.
    """
    from invalidator.operate.findings import worst
    from invalidator.operate.topology import verified

    findings = asyncio.run(verified(load_settings(config)))
    print_findings(findings, as_json=as_json)
    sys.exit(worst(findings))


@command.command(
    epilog="Exit codes: 0 done, 69 the broker is unreachable, 75 not every node of today confirmed, try again, "
    "77 refused, 78 the node is still configured.\n\n" + EXAMPLES + "  invalidator topology retire cache-3"
)
@config_option
@output_option
@click.argument("label")
def retire(config: Path | None, as_json: bool, label: str) -> None:
    """Settle the debt of a node that is gone for good, and delete its parking queue.

    Take the node out of the configuration of every worker first. What it was owed is evicted on today's nodes, where
    clients may have taken its keys to.
    """
    from invalidator.operate.retire_node import retired

    done = asyncio.run(retired(load_settings(config), label))
    if as_json:
        print_json(done)
    elif done.found:
        what = plural(done.keys, "key")
        click.echo(f"{printable(done.queue)} is deleted; {what} it held are evicted on today's nodes")
    else:
        click.echo(f"{printable(done.queue)} is not there: nothing to settle")


@command.command(
    epilog="Exit codes: 0 printed, 78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator topology export > definitions.json && rabbitmqctl import_definitions definitions.json\n"
    + "  invalidator topology export --rabbitmq 3\n"
    + "  INVALIDATOR_CLUSTER=us invalidator topology export"
)
@config_option
@click.option(
    "--rabbitmq",
    type=click.Choice(["3", "4"]),
    default="4",
    show_default=True,
    help="For this major version; 3 refuses what 4 needs to keep dead letters and debts.",
)
def export(config: Path | None, rabbitmq: str) -> None:
    """Print definitions.json: vhost, exchanges, queues, binding and policies; no users.

    An import ignores in silence what is there already with other arguments: run `invalidator topology verify`
    afterwards. At boot (load_definitions) a file without users leaves a new broker with none.
    """
    from invalidator.broker.topology import Topology
    from invalidator.operate.management import vhost_of

    settings = load_settings(config)
    definitions = Topology.of(settings).definitions(vhost_of(settings), major_version=int(rabbitmq))
    click.echo(json.dumps(definitions, indent=2))
