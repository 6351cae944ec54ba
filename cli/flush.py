"""`invalidator flush`: empty nodes, one by one."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from invalidator.errors import InvalidatorError, UnconfirmedError

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import note, print_json, print_table

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.evict import NodeOutcome
    from invalidator.settings import Settings


@click.command(
    epilog="Exit codes: 0 every node is flushed, 2 usage or no --yes, 75 not every node confirmed, "
    "78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator flush                              # show what would be flushed\n"
    + "  invalidator flush --yes                        # all nodes, a minute apart\n"
    + "  invalidator flush --node cache-2 --yes"
)
@config_option
@output_option
@click.option("--node", "labels", multiple=True, metavar="LABEL", help="Only this node; may be given several times.")
@click.option("--pause", default=60.0, show_default=True, help="Seconds between two nodes.")
@click.option("--yes", is_flag=True, help="Confirm that they are to be emptied.")
def command(config: Path | None, as_json: bool, labels: tuple[str, ...], pause: float, yes: bool) -> None:
    """Empty this configuration's memcached nodes, one by one.

    This is the fix after a gap: events may have been missed, and it is not known which keys are stale. Everything on a
    node is deleted, so the database has to answer until the node is filled again. Hence the pause between two nodes.
    When every node is flushed, status and check show the gap no more.
    """
    from invalidator.operate.evict import addresses
    from invalidator.operate.flush import chosen

    settings = load_settings(config)
    nodes = chosen(settings, labels)
    if not yes:
        known = addresses(settings)
        print_table(((label, known[label]) for label in nodes), header=("WOULD FLUSH", "ADDRESS"))
        raise click.UsageError("nothing was done: give --yes to delete everything on these nodes")
    began = datetime.now(UTC)
    outcomes = asyncio.run(_flush(settings, nodes, pause, as_json=as_json))
    if as_json:
        print_json([{"node": one.node, "address": one.address, "reason": one.reason} for one in outcomes])
    missing = [one.node for one in outcomes if one.reason]
    if missing:
        note(f"not confirmed by {', '.join(missing)}: old values may remain there; run it again when they answer")
        sys.exit(UnconfirmedError.exit_code)
    if set(nodes) == set(addresses(settings)):
        _forget_gaps(settings, began)


def _forget_gaps(settings: "Settings", began: datetime) -> None:
    from invalidator.operate.flush import forget_gaps

    try:
        cleared = asyncio.run(forget_gaps(settings, until=began))
    except InvalidatorError as error:
        note(f"every node is flushed, but status and check go on to show a gap if there was one: {error}")
        return
    if cleared:
        note("the gap before the flush is cleared")


async def _flush(settings: "Settings", nodes: list[str], pause: float, *, as_json: bool) -> "list[NodeOutcome]":
    from invalidator.operate.flush import flushed

    outcomes = []
    async for outcome in flushed(settings, nodes, pause=pause):
        outcomes.append(outcome)
        if not as_json:
            print_table([(outcome.node, outcome.address, outcome.reason or "flushed")])
    return outcomes
