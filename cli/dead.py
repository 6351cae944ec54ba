"""`invalidator dead`: list, show, replay or drop events that could not be evicted."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import to_builtins

from invalidator.errors import UnconfirmedError

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import echo, note, plural, print_json, print_table, progress
from .suggestions import Suggesting

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.dead_letter import Cause, DeadLetter
    from invalidator.operate.dead_letters import DeadLetters, Filter, Group
    from invalidator.operate.receipt_inbox import Inbox
    from invalidator.settings import Settings

#: Seconds that `replay` waits for receipts.
WAIT_SECONDS = 10.0
EXIT_CODES = (
    "Exit codes: 0 done, 2 usage, 69 broker or queue not there, 75 not confirmed, run it again, 77 refused, "
    "78 configuration, or a delivery limit with which reading would delete dead letters.\n\n"
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``[ID]… --reason --type --limit``, passed on as ``chosen``."""

    @wraps(command)
    def parsed(**arguments: Any) -> Any:
        from invalidator.operate.dead_letters import Filter

        names = ("ids", "reasons", "types", "limit")
        return command(chosen=Filter(*(arguments.pop(name) for name in names)), **arguments)

    for decorate in (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option(
            "--limit", type=click.IntRange(min=1), help="The largest number of dead letters, the oldest first."
        ),
        click.option("--type", "types", multiple=True, help="Only events of this type; may be given several times."),
        click.option("--reason", "reasons", multiple=True, help="Only with this reason; may be given several times."),
    ):
        parsed = decorate(parsed)
    return parsed


@click.group(
    cls=Suggesting,
    epilog="Exit codes: those of each command; see its --help.\n\n"
    + EXAMPLES
    + "  invalidator dead list\n"
    + "  invalidator dead show --reason missing-field --limit 1\n"
    + "  invalidator dead replay --reason delivery-limit --rate 100",
)
def command() -> None:
    """List, show, replay or drop this cluster's dead letters. Reading never deletes one."""


@command.command(
    "list",
    epilog=EXIT_CODES
    + EXAMPLES
    + "  invalidator dead list\n"
    + "  invalidator dead list --type product_updated -o json",
)
@config_option
@output_option
@filter_options
def list_command(config: Path | None, as_json: bool, chosen: "Filter") -> None:
    """Count dead letters by reason and type.

    Each group is shown with the times of its first and its last dead letter.
    """
    _print_groups(asyncio.run(_grouped(load_settings(config), chosen)), as_json=as_json)


@command.command(
    epilog=EXIT_CODES + EXAMPLES + "  invalidator dead show --limit 1\n" + "  invalidator dead show 4f2a9c1e -o json"
)
@config_option
@output_option
@filter_options
def show(config: Path | None, as_json: bool, chosen: "Filter") -> None:
    """Show dead letters one by one: reason, headers, body.

    If no reason was recorded, it is inferred from the body and the current rules, and marked with "?".
    """
    shown = asyncio.run(_matching(load_settings(config), chosen))
    if as_json:
        print_json([_described(dead_letter, cause) for dead_letter, cause in shown])
        return
    for dead_letter, cause in shown:
        _print_dead_letter(dead_letter, cause)
    if not shown:
        click.echo("no dead letters")


@command.command(
    epilog=EXIT_CODES
    + EXAMPLES
    + "  invalidator dead replay --dry-run\n"
    + "  invalidator dead replay --reason delivery-limit --rate 100\n"
    + "  invalidator dead replay 4f2a9c1e"
)
@config_option
@output_option
@filter_options
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Dead letters a second, at most.")
@click.option("--dry-run", is_flag=True, help="List them; replay nothing.")
def replay(config: Path | None, as_json: bool, chosen: "Filter", rate: float | None, dry_run: bool) -> None:
    """Publish dead letters again, then remove them.

    They go to this cluster's queue only. Each is removed only when the broker has confirmed that it is stored again.
    An event that still cannot be evicted becomes a dead letter again: replay waits for the workers' receipts, and says
    how many did (exit code 75). An unreadable debt was never an event, and stays.
    """
    settings = load_settings(config)
    if dry_run:
        _print_groups(asyncio.run(_grouped(settings, chosen)), as_json=as_json)
        note("nothing was replayed")
        return
    replayed, left, inbox = asyncio.run(_replayed(settings, chosen, rate))
    died = sum(answer.died for answer in inbox.answers)
    if as_json:
        print_json({"replayed": replayed, "left": left, "died_again": died, "unanswered": inbox.unanswered})
    else:
        again = f", and {died} of them died again: invalidator dead list" if died else ""
        click.echo(f"{plural(replayed, 'dead letter')} replayed{again}")
    if inbox.unanswered:
        note(f"no worker has evicted {inbox.unanswered} of them yet: see `invalidator status`")
    if left:
        note(f"{plural(left, 'unreadable debt')} left: flush the node, then `dead drop --reason unreadable-debt`")
    if died:
        sys.exit(UnconfirmedError.exit_code)


@command.command(
    epilog=EXIT_CODES
    + EXAMPLES
    + "  invalidator dead drop --reason not-json --dry-run\n"
    + "  invalidator dead drop --reason not-json --yes"
)
@config_option
@output_option
@filter_options
@click.option("--yes", is_flag=True, help="Confirm that they are to be dropped.")
@click.option("--dry-run", is_flag=True, help="List them; drop nothing.")
def drop(config: Path | None, as_json: bool, chosen: "Filter", yes: bool, dry_run: bool) -> None:
    """Remove dead letters for good: their keys stay as they are."""
    settings = load_settings(config)
    if dry_run or not yes:
        _print_groups(asyncio.run(_grouped(settings, chosen)), as_json=as_json)
        if dry_run:
            return
        raise click.UsageError("nothing was dropped: give --yes to drop them for good")
    dropped = asyncio.run(_dropped(settings, chosen))
    if as_json:
        print_json({"dropped": dropped})
    else:
        click.echo(f"{plural(dropped, 'dead letter')} dropped")


@asynccontextmanager
async def _opened(settings: "Settings", doing: str) -> "AsyncIterator[tuple[DeadLetters, Callable[[], None]]]":
    """Yield the dead letters, and the function that moves the progress bar on."""
    from invalidator.operate.dead_letters import dead_letters

    async with dead_letters(settings) as found:
        if found.unverified:
            note(found.unverified)
        with progress(doing, found.count) as advance:
            yield found, advance


async def _grouped(settings: "Settings", chosen: "Filter") -> "list[Group]":
    async with _opened(settings, "reading") as (found, advance):
        return await found.grouped(chosen, advance=advance)


async def _matching(settings: "Settings", chosen: "Filter") -> "list[tuple[DeadLetter, Cause]]":
    async with _opened(settings, "reading") as (found, advance):
        return [each async for each in found.matching(chosen, advance=advance)]


async def _replayed(settings: "Settings", chosen: "Filter", rate: float | None) -> "tuple[int, int, Inbox]":
    """Return the numbers of events replayed and of dead letters left because they are not events, and the receipts."""
    from invalidator.operate.receipt_inbox import Inbox

    inbox = Inbox([settings.cluster], seconds=WAIT_SECONDS)
    counts = {True: 0, False: 0}
    try:
        async with _opened(settings, "replaying") as (found, advance):
            async for was_event in found.replay(chosen, rate=rate, advance=advance, inbox=inbox):
                counts[was_event] += 1
    except BaseException:
        note(f"{plural(counts[True], 'dead letter')} replayed, then:" if counts[True] else "nothing was replayed:")
        raise
    return counts[True], counts[False], inbox


async def _dropped(settings: "Settings", chosen: "Filter") -> int:
    dropped = 0
    async with _opened(settings, "dropping") as (found, advance):
        async for dead_letter, _ in found.matching(chosen, advance=advance):
            await found.remove(dead_letter)
            dropped += 1
    return dropped


def _print_groups(groups: "list[Group]", *, as_json: bool) -> None:
    if as_json:
        print_json([dict(to_builtins(group), letters=group.count) for group in groups])  # `count` from now on
    elif not groups:
        click.echo("no dead letters")
    else:
        rows = ((one.reason, one.type or "-", one.count, _day(one.first), _day(one.last), one.id) for one in groups)
        print_table(rows, header=("REASON", "TYPE", "COUNT", "FIRST SEEN", "LAST SEEN", "LAST ID"))


def _described(dead_letter: "DeadLetter", cause: "Cause") -> dict[str, Any]:
    return {
        "id": dead_letter.id,
        "reason": cause.reason,
        "detail": cause.detail,
        "worked_out": cause.is_inferred,
        "type": dead_letter.type,
        "died_at": dead_letter.died_at,
        "published_at": dead_letter.properties.timestamp,
        "message_id": dead_letter.message_id,
        "worker": dead_letter.worker,
        "headers": {name: str(value) for name, value in dead_letter.own_headers.items()},
        "unreadable": dead_letter.unreadable,
        "body": dead_letter.body.decode(errors="backslashreplace"),
    }


def _print_dead_letter(dead_letter: "DeadLetter", cause: "Cause") -> None:
    described = _described(dead_letter, cause)
    echo(click.style(f"dead letter {dead_letter.id}", bold=True))
    rows = [
        ("reason", f"{cause.reason}{' ?' if cause.is_inferred else ''}"),
        ("detail", cause.detail),
        ("type", described["type"]),
        ("died", _time(dead_letter.died_at)),
        ("published", _time(dead_letter.properties.timestamp)),
        ("message id", dead_letter.message_id),
        ("worker", dead_letter.worker),
        *described["unreadable"].items(),
        *described["headers"].items(),
        ("body", described["body"]),
    ]
    print_table((f"  {name}", value or "-") for name, value in rows)


def _day(moment: datetime | None) -> str:
    """Return a time without its year, so that the table fits 80 columns."""
    return _time(moment).partition("-")[2] or "-"


def _time(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else "-"
