"""`invalidator history`: what happened to a key or an event in the last hours."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import EXAMPLES, config_option, load_settings, moment, output_option
from .output import note, print_json, print_table

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.event_log.history import History


@click.command(
    epilog="Exit codes: 0 done, 2 usage, 69 the broker or the log is not there, 77 refused, "
    "78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator history product:1\n"
    + "  invalidator history product:1 --from 6h -o json\n"
    + "  invalidator history 5f0c8a52-19cd-4b0e-9a61-2d6f4c9b7e10"
)
@config_option
@output_option
@click.option(
    "--from", "since", metavar="TIME", callback=moment, default="1h", help="How far to look back; by default 1h."
)
@click.argument("wanted", metavar="KEY|EVENT-ID")
def command(config: Path | None, as_json: bool, since: datetime, wanted: str) -> None:
    """Show the events that touched a key and the evictions of it, or what became of an event.

    For "why is this price old?", asked hours later. It reads the log of events (event_log.enabled) by today's rules,
    and of this cluster what workers announced, the dead letters, and the gaps. A key is named as the rules make it,
    without memcached.prefix.
    """
    from invalidator.operate.event_log.history import history

    found = asyncio.run(history(load_settings(config), wanted, since))
    if as_json:
        print_json(found)
    else:
        print_history(found, since)


def print_history(found: "History", since: datetime) -> None:
    if found.entries:
        rows = (
            (
                _time(entry.at),
                entry.what,
                entry.type,
                entry.by,
                entry.id or entry.detail,
                entry.detail if entry.id else "",
            )
            for entry in found.entries
        )
        print_table(rows, header=("TIME (UTC)", "WHAT", "TYPE", "BY", "EVENT", "DETAIL"))
    if found.log_begins:
        note(f"the log begins at {found.log_begins:%Y-%m-%dT%H:%M:%SZ}: it has nothing from before")
    if not found.entries:
        note(f"no logged event since {since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ} touched it")


def _time(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at else "-"
