"""`invalidator history`: what happened to a key or an event in the last hours."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from invalidator.errors import UnconfirmedError

from .options import EXAMPLES, config_option, load_settings, moment, output_option
from .output import note, print_json, print_table, progress

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.event_log.entry import Entry
    from invalidator.operate.event_log.history import History
    from invalidator.settings import Settings

#: Keys of an event in one line.
SHOWN_KEYS = 5


@click.command(
    epilog="Exit codes: 0 done, 2 usage, 69 the broker or the log is not there, 75 something could not be read, "
    "77 refused, 78 configuration.\n\n"
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
    and of this cluster what workers announced, the dead letters, and the gaps. An event that the cluster has not
    announced a minute later is named. A key is named as the rules make it, without memcached.prefix.
    """
    found = history_of(load_settings(config), wanted, since)
    if as_json:
        print_json(found)
    else:
        print_history(found)
    if found.unread:
        sys.exit(UnconfirmedError.exit_code)


def history_of(settings: "Settings", wanted: str, since: datetime) -> "History":
    """Read the history, with a counter of the events that were read."""
    from invalidator.operate.event_log.history import history

    with progress("events read", None) as advance:
        return asyncio.run(history(settings, wanted, since, advance=advance))


def print_history(found: "History") -> None:
    """Print the entries; of a single day, without the date in each line."""
    if found.entries:
        days = {f"{entry.at.astimezone(UTC):%Y-%m-%d}" for entry in found.entries if entry.at}
        (day, form) = (days.pop(), "%H:%M:%S.%f") if len(days) == 1 else ("TIME", "%Y-%m-%d %H:%M:%S.%f")
        rows = ((_time(entry.at, form), entry.what, _story(entry, found.wanted)) for entry in found.entries)
        print_table(rows, header=(f"{day} UTC", "WHAT", "DETAIL"))
    if found.log_begins:
        note(f"the log of events begins at {_second(found.log_begins)}: it has nothing from before")
    if found.announcements_begin and found.announcements_begin != found.log_begins:
        note(f"announcements of evictions are kept since {_second(found.announcements_begin)}")
    for unread in found.unread:
        note(f"not shown are {unread}")
    if not found.entries:
        note(f"nothing touched it since {_second(found.since)}")


def _story(entry: "Entry", wanted: str) -> str:
    of, by, nodes = f"of {entry.cluster}", f"by {entry.by}", ", ".join(entry.nodes)
    match entry.what:
        case "event":
            story = f"{entry.type} {by if entry.by else ''}".rstrip() + f": {_keys(entry, wanted)}"
        case "evicted":
            story = f"on its nodes {of}, {by}"
        case "healed":
            story = f"on its nodes {of}, {by}, which read the event again from the log"
        case "parked":
            story = f"for {nodes}, evicted on the other nodes {of}, {by}"
        case "drained":
            story = f"evicted on {nodes} {of}, too, {by}"
        case "emptied":
            story = f"{nodes} {of}, {by}: more was parked than worker.parked_limit"
        case "not announced":
            story = f"no worker {of} has said within a minute that it evicted this"
        case _:
            story = ""
    event = f"event {entry.id}" if entry.id and entry.id != wanted else ""
    return "; ".join(filter(None, (story, entry.detail, event)))


def _keys(entry: "Entry", wanted: str) -> str:
    """Return the templates that make the key, or an event's keys and their templates."""
    if wanted in entry.keys or not entry.keys:
        return ", ".join(entry.rules) or "no key"
    more = len(entry.keys) - SHOWN_KEYS
    shown = ", ".join(entry.keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
    return f"{shown}, by {', '.join(entry.rules)}"


def _time(at: datetime | None, form: str) -> str:
    return at.astimezone(UTC).strftime(form)[:-3] if at else "-"


def _second(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
