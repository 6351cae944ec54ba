"""`invalidator publish`: publish test events, confirmed."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from invalidator.settings import Settings

from .options import (
    EXAMPLES,
    FIELDS_HELP,
    Field,
    config_option,
    event_fields,
    fields_argument,
    load_settings,
    numbered_lines,
    output_option,
)
from .output import note, plural, print_json, printable, progress
from .wait_option import WaitingCommand, answers_as_json, exit_unless_evicted, inbox_for, print_answers, wait_option

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.app.publish.message import Message
    from invalidator.operate.receipt_inbox import Inbox


@click.command(
    cls=WaitingCommand,
    epilog=f"{FIELDS_HELP}\n"
    "Exit codes: 0 every event is confirmed, or with --wait evicted by every cluster; 2 usage, or an event that no "
    "worker could read; 69 the broker is unreachable or no queue is bound; 75 not confirmed in time (an alarm?): "
    "publish again; 77 refused; 78 configuration.\n\n"
    + EXAMPLES
    + "  invalidator publish product_updated id=abc-123 price:=109.99\n"
    + "  invalidator publish product_updated id=abc-123 --wait\n"
    + "  invalidator publish product_updated id={n} --count 10000 --rate 500\n"
    + "  invalidator publish --from-file events.jsonl\n"
    + '  echo \'{"type": "product_updated", "id": 7}\' | invalidator publish --from-file -',
)
@config_option
@output_option
@click.option(
    "--count", type=click.IntRange(min=1), help="Publish this number of events; {n} in a value counts from 1."
)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Events a second, at most.")
@wait_option
@click.option(
    "--from-file",
    "file",
    type=click.File("rb"),
    help="Events as JSON, one a line, with their types; - is standard input.",
)
@click.argument("type", required=False)
@fields_argument
def command(
    config: Path | None,
    as_json: bool,
    count: int | None,
    rate: float | None,
    wait: float | None,
    file: IO[bytes] | None,
    type: str | None,
    fields: list[Field],
) -> None:
    """Publish events to the fanout exchange, for every cluster.

    An event is published when the broker has confirmed that every bound queue stores it. A file is checked to its last
    line before anything is sent. A pipe is sent as it comes. An event type that no rule of this configuration is on is
    reported before it is sent.
    """
    if (file is None) == (type is None) or (file and count):
        raise click.UsageError("give a TYPE with its fields (and --count), or --from-file")
    from invalidator.operate.publish import TypesWithoutRule

    settings = load_settings(config)
    limit, types = settings.limits.body_bytes, TypesWithoutRule(settings, note)
    messages: Iterable[Message]
    if file is None:
        assert type is not None
        messages, total = _repeated(type, fields, count, limit), count or 1
        types.check(type)
    else:
        messages, total = types.checked(_read(file, limit)), None
        if file.seekable():
            start, total = file.tell(), sum(1 for _ in messages)
            file.seek(start)
            messages = _read(file, limit)
    inbox = inbox_for(settings, wait)
    _publish(settings, messages, total=total, rate=rate, inbox=inbox, as_json=as_json)
    exit_unless_evicted(inbox)


def _repeated(type: str, fields: list[Field], count: int | None, limit: int) -> "Iterator[Message]":
    """Return ``count`` events. Raises for a fault before the first of them is sent."""
    from invalidator.events.event import encode
    from invalidator.operate.publish import message_of

    def numbered(number: int | None) -> "Message":
        return message_of(encode(type, event_fields(fields, number)), limit=limit)

    if count is None:
        return iter([numbered(None)])
    return chain([numbered(1)], map(numbered, range(2, count + 1)))


def _read(file: IO[bytes], limit: int) -> "Iterator[Message]":
    """Yield the events of a file. Raises PoisonError with its line for one that no worker could read."""
    from invalidator.errors import PoisonError
    from invalidator.operate.publish import message_of

    for number, line in numbered_lines(file):
        try:
            yield message_of(line, limit=limit)
        except PoisonError as error:
            raise PoisonError(error.reason, f"line {number}: {error}") from error


def _publish(
    settings: Settings,
    messages: "Iterable[Message]",
    *,
    total: int | None,
    rate: float | None,
    inbox: "Inbox | None",
    as_json: bool,
) -> None:
    from invalidator.operate.publish import publish

    published, seconds, started, exchange = 0, 0.0, time.monotonic(), settings.broker.exchange

    def confirmed(more: int) -> None:
        nonlocal published, seconds
        published, seconds = published + more, time.monotonic() - started
        advance(more)

    try:
        with progress("publishing", total) as advance:
            asyncio.run(publish(settings, messages, rate=rate, confirmed=confirmed, inbox=inbox))
    except BaseException:
        if total != 1:
            note(f"{plural(published, 'event')}{f' of {total}' if total else ''} published and confirmed, then:")
        raise
    finally:
        if as_json:
            done = {"exchange": exchange, "published": published, "seconds": round(seconds, 3)}
            print_json(done | answers_as_json(inbox))
    if not as_json:
        speed = f", {published / seconds:,.0f} a second" if published > 1 else ""
        click.echo(
            f"{plural(published, 'event')} published to {printable(exchange)} and confirmed in {seconds:.2f} s{speed}"
        )
        print_answers(inbox)
