"""`invalidator tail`: show live events and announcements."""

import asyncio
from contextlib import aclosing, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import echo, note, print_json, printable

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.tail import Seen
    from invalidator.settings import Settings

#: Keys shown of one message. The JSON has all.
SHOWN_KEYS = 5
COLOURS = {"event": "cyan", "purged": "green", "poison": "red"}


@click.command(
    epilog="Exit codes: 0 ended by Ctrl-C or --limit, 69 no broker or no such exchange, 77 refused, "
    "78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator tail\n"
    + "  invalidator tail --key 'product:17*'\n"
    + "  invalidator tail --limit 100 -o json | jq -r .of | sort | uniq -c"
)
@config_option
@output_option
@click.option("--key", "pattern", metavar="GLOB", help="Only messages that name a matching key: product:17*")
@click.option("--limit", type=click.IntRange(min=1), help="End after this number of messages.")
def command(config: Path | None, as_json: bool, pattern: str | None, limit: int | None) -> None:
    """Show events as they are published, with their keys by this configuration's rules, and clusters' announcements.

    Reads from a temporary queue, so no worker loses a message. A slow reader misses the oldest ones. With -o json it
    prints one object a line.
    """
    settings = load_settings(config)
    with suppress(KeyboardInterrupt):
        asyncio.run(_tail(settings, pattern, limit, as_json=as_json))


async def _tail(settings: "Settings", pattern: str | None, limit: int | None, *, as_json: bool) -> None:
    from invalidator.errors import InvalidatorError
    from invalidator.operate.management import expected_clusters
    from invalidator.operate.tail import Interpreter, passing

    try:
        clusters = await expected_clusters(settings)
    except InvalidatorError:
        clusters = [settings.cluster]
    interpreter, shown = Interpreter(settings), 0
    note(f"events and announcements of {', '.join(clusters)} from now on; Ctrl-C ends it")
    async with aclosing(passing(settings, purged_of=clusters)) as messages:
        async for delivery in messages:
            seen = interpreter.interpret(delivery)
            if seen is None or (pattern and not any(fnmatchcase(key, pattern) for key in seen.keys)):
                continue
            _print(seen, as_json=as_json)
            shown += 1
            if shown == limit:
                return


def _print(seen: "Seen", *, as_json: bool) -> None:
    if as_json:
        print_json(seen, indent=None)
        return
    keys = " ".join(seen.keys[:SHOWN_KEYS])
    more = f" and {len(seen.keys) - SHOWN_KEYS} more" if len(seen.keys) > SHOWN_KEYS else ""
    text = printable(f"{keys}{more}{'  ' if keys and seen.detail else ''}{seen.detail}")
    what = click.style(seen.what.ljust(6), fg=COLOURS[seen.what])
    echo(f"{seen.at:%H:%M:%S.%f}"[:-3] + f"  {what}  {printable(seen.of or '-').ljust(20)}  {text}")
