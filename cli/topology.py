"""`invalidator topology`: declare, verify or export exchanges, queues and bindings."""

import asyncio
import json
import sys
from pathlib import Path

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import note, plural, print_findings, print_json, print_table, printable
from .suggestions import Suggesting


@click.group(
    cls=Suggesting,
    epilog="Exit codes: those of each command; see its --help.\n\n"
    + EXAMPLES
    + "  invalidator topology declare\n"
    + "  invalidator topology verify -o json\n"
    + "  invalidator topology export > definitions.json",
)
def command() -> None:
    """Declare, verify or export exchanges, queues and bindings of this configuration's cluster."""


@command.command(
    epilog="Exit codes: 0 everything exists, 69 unreachable, 75 a gap cannot be stored yet: try again; 77 refused, "
    "78 something exists with other arguments.\n\n"
    + EXAMPLES
    + "  invalidator topology declare\n"
    + "  INVALIDATOR_CLUSTER=us invalidator topology declare"
)
@config_option
@output_option
def declare(config: Path | None, as_json: bool) -> None:
    """Declare what is missing, as a worker with declare = "active" does.

    Everything that exists stays as it is. If the queue of the events had been deleted, the gap is remembered and shown
    by `status` and `check`. If something exists with other arguments, the error names the first of them.
    """
    from invalidator.broker.topology import Topology
    from invalidator.operate.findings import missed_events
    from invalidator.operate.topology import declared

    settings = load_settings(config)
    if gap := asyncio.run(declared(settings)):
        found = missed_events("queue", gap)
        note(f"{found.text}; fix: {found.fix}")
    topology = Topology.of(settings)
    rows = [("exchange", name, kind) for name, kind in topology.exchanges().items()]
    rows += [("queue", queue.name, queue.arguments["x-queue-type"]) for queue in topology.queues()]
    rows += [("binding", f"{exchange} -> {name}", "") for exchange, name, _ in topology.bindings()]
    if as_json:
        print_json([{"what": what, "name": name} for what, name, _ in rows])
    else:
        print_table(rows, header=("WHAT", "NAME", "TYPE"))


@command.command(
    epilog="Exit codes: 0 verified, 69 the broker or its management API is unreachable, or something is missing, "
    "77 refused, 78 a fault that would lose events or debts.\n\n"
    + EXAMPLES
    + "  invalidator topology verify\n"
    + "  INVALIDATOR_MANAGEMENT__URL=https://rabbit.example:15671 invalidator topology verify -o json"
)
@config_option
@output_option
def verify(config: Path | None, as_json: bool) -> None:
    """Verify that types, arguments, policies and bindings lose nothing.

    They are read from RabbitMQ's management API (see [management]); if it is unreachable, only existence is checked,
    and the rest is reported as "not verified", with the reason. Policies may be 5 seconds old there.
    """
    from invalidator.operate.findings import worst
    from invalidator.operate.topology import verified

    findings = asyncio.run(verified(load_settings(config)))
    print_findings(findings, as_json=as_json)
    sys.exit(worst(findings))


@command.command(
    epilog="Exit codes: 0 done, 69 the broker is unreachable, 75 not every present node confirmed: try again; "
    "77 refused, 78 the node is still configured.\n\n" + EXAMPLES + "  invalidator topology retire cache-3"
)
@config_option
@output_option
@click.argument("label")
def retire(config: Path | None, as_json: bool, label: str) -> None:
    """Settle the debt of a node that is gone for good, and delete its parking queue.

    Remove the node from every worker's configuration first. Its parked keys are evicted on the present nodes, because
    clients may have moved its keys there.
    """
    from invalidator.operate.retire_node import retired

    done = asyncio.run(retired(load_settings(config), label))
    if as_json:
        print_json(done)
    elif done.found:
        what = plural(done.keys, "key")
        click.echo(f"{printable(done.queue)} is deleted; {what} it held are evicted on the present nodes")
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
    help="For this major version; 3 refuses the arguments that 4 needs to keep dead letters and debts.",
)
def export(config: Path | None, rabbitmq: str) -> None:
    """Print definitions.json: vhost, exchanges, queues, binding and policies, but no users.

    An import silently ignores anything that exists with other arguments: run `invalidator topology verify` afterwards.
    A new broker that imports a file without users at boot (load_definitions) has no user at all.
    """
    from invalidator.broker.topology import Topology
    from invalidator.operate.management import vhost_of

    settings = load_settings(config)
    definitions = Topology.of(settings).definitions(vhost_of(settings), major_version=int(rabbitmq))
    click.echo(json.dumps(definitions, indent=2))
