"""`invalidator evict`: evict keys by hand."""

import sys
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from invalidator.errors import UnconfirmedError
from invalidator.settings import Settings

from .options import EXAMPLES, config_option, load_settings, numbered_lines, output_option
from .output import note, plural, print_json, print_table, printable, progress
from .wait_option import (
    WaitingCommand,
    answers_as_json,
    exit_unless_evicted,
    inbox_for,
    print_answers,
    wait_option,
)

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.receipt_inbox import Inbox


@click.command(
    cls=WaitingCommand,
    epilog="Exit codes: 0 confirmed by the broker, with --direct by every node, with --wait by every cluster; "
    "2 usage, or an invalid key (nothing was sent); 69 the broker is unreachable or no queue is bound; 75 a node, the "
    "broker or a cluster did not confirm: run it again; 77 refused; 78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator evict product:abc-123 product:abc-123:reviews\n"
    + "  invalidator evict product:abc-123 --wait\n"
    + "  invalidator evict --from-file keys.txt --dry-run\n"
    + "  grep -o 'category:[0-9]*' access.log | sort -u | invalidator evict --from-file -\n"
    + "  invalidator evict product:abc-123 --direct --config /etc/invalidator/eu.toml",
)
@config_option
@output_option
@click.option("--from-file", "file", type=click.File("rb"), help="Further keys, one a line; - is standard input.")
@click.option("--direct", is_flag=True, help="Only on this configuration's own nodes, without a broker.")
@wait_option
@click.option("--dry-run", is_flag=True, help="Show the keys and their nodes; send nothing.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
def command(
    config: Path | None,
    as_json: bool,
    file: IO[bytes] | None,
    direct: bool,
    wait: float | None,
    dry_run: bool,
    keys: tuple[str, ...],
) -> None:
    """Evict keys by hand: by default through the fanout exchange, from every cluster.

    Write keys as the application names them, without memcached.prefix. Keys for a node that is down are parked, and
    evicted when it is back. With --wait every cluster reports the outcome. With --direct nothing is parked: the
    command names each node that does not confirm.
    """
    from invalidator.operate.evict import checked_keys

    if not keys and file is None:
        raise click.UsageError("give a KEY, or --from-file")
    if direct and wait:
        raise click.UsageError("--direct waits for its nodes in any case: leave --wait out")
    settings = load_settings(config)
    lines = numbered_lines(file) if file else ()
    from_file = ((f"line {number}", line.decode(errors="surrogateescape")) for number, line in lines)
    checked = checked_keys(settings, chain(((f"KEY {n}", key) for n, key in enumerate(keys, start=1)), from_file))
    if not checked and not as_json:
        note("no keys were given: nothing to evict")
    elif dry_run:
        _show(settings, checked, as_json=as_json)
    elif direct:
        _evict_directly(settings, checked, as_json=as_json)
    else:
        _publish(settings, checked, inbox_for(settings, wait), as_json=as_json)


def _show(settings: Settings, keys: list[bytes], *, as_json: bool) -> None:
    from invalidator.operate.evict import addresses, placed

    nodes, rows = addresses(settings), placed(settings, keys)
    if as_json:
        print_json({"cluster": settings.cluster, "keys": rows, "nodes": nodes})
        return
    everywhere = list(nodes)
    print_table(
        ((key.stored_as, "every node" if key.nodes == everywhere else ", ".join(key.nodes)) for key in rows),
        header=("KEY", "NODES"),
    )
    click.echo()
    print_table(nodes.items(), header=("NODE", "ADDRESS"))
    note(f"nothing was sent; the nodes are those of the cluster {settings.cluster}")


def _evict_directly(settings: Settings, keys: list[bytes], *, as_json: bool) -> None:
    from invalidator.operate.evict import evict_directly

    outcomes = evict_directly(settings, keys)
    if as_json:
        print_json(outcomes)
    else:
        rows = ((o.node, o.address, o.evicted, o.unconfirmed, o.reason or "") for o in outcomes)
        print_table(rows, header=("NODE", "ADDRESS", "CONFIRMED", "NOT", "REASON"))
    missing = [outcome.node for outcome in outcomes if outcome.unconfirmed]
    if missing:
        note(f"not confirmed by {', '.join(missing)}: old values may remain there; run it again when they answer")
        sys.exit(UnconfirmedError.exit_code)


def _publish(settings: Settings, keys: list[bytes], inbox: "Inbox | None", *, as_json: bool) -> None:
    import asyncio

    from invalidator.operate.eviction_events import eviction_events
    from invalidator.operate.publish import publish

    events = list(eviction_events(keys, settings.limits))
    with progress("publishing", len(events)) as advance:
        asyncio.run(publish(settings, events, confirmed=advance, inbox=inbox))
    exchange = settings.broker.exchange
    if as_json:
        print_json({"exchange": exchange, "keys": len(keys), "events": len(events)} | answers_as_json(inbox))
    elif inbox:
        print_answers(inbox)
    else:
        what = f"{plural(len(keys), 'key')} in {plural(len(events), 'event')}"
        click.echo(f"{what} published to {printable(exchange)} and confirmed: every bound cluster evicts them")
    exit_unless_evicted(inbox)
