"""`invalidator dead`: what could never be evicted, why, and what to do with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import echo, note, plural, print_json, print_table, progress

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.dead_letter import Cause, Letter
    from invalidator.operate.dead_letters import DeadLetters, Filter, Group
    from invalidator.settings import Settings

EXIT_CODES = (
    "Exit codes: 0 done, 2 usage, 69 broker or queue not there, 75 not confirmed, run it again, 77 refused, "
    "78 configuration, or a delivery limit with which looking would cost letters.\n\n"
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``[ID]… --reason --type --limit``, as ``chosen``."""

    @wraps(command)
    def parsed(**arguments: Any) -> Any:
        from invalidator.operate.dead_letters import Filter

        names = ("ids", "reasons", "types", "limit")
        return command(chosen=Filter(*(arguments.pop(name) for name in names)), **arguments)

    for decorate in (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--limit", type=click.IntRange(min=1), help="So many letters at most, the oldest first."),
        click.option("--type", "types", multiple=True, help="Events of this type; may be given several times."),
        click.option("--reason", "reasons", multiple=True, help="Of this reason; may be given several times."),
    ):
        parsed = decorate(parsed)
    return parsed


@click.group(
    epilog="Exit codes: those of each command; see its --help.\n\n"
    + EXAMPLES
    + "  invalidator dead list\n"
    + "  invalidator dead show --reason missing-field --limit 1\n"
    + "  invalidator dead replay --reason delivery-limit --rate 100"
)
def command() -> None:
    """List, show, replay or drop this cluster's dead letters. Looking at them never costs one."""


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
    """Count dead letters by reason and type, and say since when."""
    _print_groups(asyncio.run(_grouped(load_settings(config), chosen)), as_json=as_json)


@command.command(
    epilog=EXIT_CODES + EXAMPLES + "  invalidator dead show --limit 1\n" + "  invalidator dead show 4f2a9c1e -o json"
)
@config_option
@output_option
@filter_options
def show(config: Path | None, as_json: bool, chosen: "Filter") -> None:
    """Show dead letters one by one: reason, headers, body.

    Where nobody could write the reason down it is worked out again from the body and the rules of this configuration,
    and marked with "?".
    """
    shown = asyncio.run(_looked_at(load_settings(config), chosen))
    if as_json:
        print_json([_described(letter, cause) for letter, cause in shown])
        return
    for letter, cause in shown:
        _print_letter(letter, cause)
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
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Letters a second, at most.")
@click.option("--dry-run", is_flag=True, help="Show which; replay none.")
def replay(config: Path | None, as_json: bool, chosen: "Filter", rate: float | None, dry_run: bool) -> None:
    """Publish dead letters again, to this cluster's queue only, and then remove them.

    Each is removed only when the broker has confirmed that it is stored again. One that still cannot be evicted
    becomes a dead letter again. A debt that nobody can read was never an event and is left where it is.
    """
    settings = load_settings(config)
    if dry_run:
        _print_groups(asyncio.run(_grouped(settings, chosen)), as_json=as_json)
        note("nothing was replayed")
        return
    replayed, left = asyncio.run(_replayed(settings, chosen, rate))
    if as_json:
        print_json({"replayed": replayed, "left": left})
    else:
        click.echo(f"{plural(replayed, 'letter')} replayed")
    if left:
        note(f"{plural(left, 'unreadable debt')} left: flush the node, then `dead drop --reason unreadable-debt`")


@command.command(
    epilog=EXIT_CODES
    + EXAMPLES
    + "  invalidator dead drop --reason not-json --dry-run\n"
    + "  invalidator dead drop --reason not-json --yes"
)
@config_option
@output_option
@filter_options
@click.option("--yes", is_flag=True, help="Really do it.")
@click.option("--dry-run", is_flag=True, help="Show which; drop none.")
def drop(config: Path | None, as_json: bool, chosen: "Filter", yes: bool, dry_run: bool) -> None:
    """Remove dead letters for good: their keys stay as they are."""
    settings = load_settings(config)
    if dry_run or not yes:
        _print_groups(asyncio.run(_grouped(settings, chosen)), as_json=as_json)
        if dry_run:
            return
        raise click.UsageError("nothing was dropped: say --yes to do it for good")
    dropped = asyncio.run(_dropped(settings, chosen))
    if as_json:
        print_json({"dropped": dropped})
    else:
        click.echo(f"{plural(dropped, 'letter')} dropped")


@asynccontextmanager
async def _opened(settings: "Settings", doing: str) -> "AsyncIterator[tuple[DeadLetters, Callable[[], None]]]":
    """The letters, and what to call for each one got, for the bar."""
    from invalidator.operate.dead_letters import dead_letters

    async with dead_letters(settings) as letters:
        if letters.unverified:
            note(letters.unverified)
        with progress(doing, letters.count) as advance:
            yield letters, advance


async def _grouped(settings: "Settings", chosen: "Filter") -> "list[Group]":
    async with _opened(settings, "looking") as (letters, advance):
        return await letters.grouped(chosen, looked_at=advance)


async def _looked_at(settings: "Settings", chosen: "Filter") -> "list[tuple[Letter, Cause]]":
    async with _opened(settings, "looking") as (letters, advance):
        return [found async for found in letters.matching(chosen, looked_at=advance)]


async def _replayed(settings: "Settings", chosen: "Filter", rate: float | None) -> tuple[int, int]:
    """How many were replayed, and how many were left because they are no events."""
    counts = {True: 0, False: 0}
    try:
        async with _opened(settings, "replaying") as (letters, advance):
            async for was_event in letters.replay(chosen, rate=rate, looked_at=advance):
                counts[was_event] += 1
    except BaseException:
        note(f"{plural(counts[True], 'letter')} replayed, then:")
        raise
    return counts[True], counts[False]


async def _dropped(settings: "Settings", chosen: "Filter") -> int:
    dropped = 0
    async with _opened(settings, "dropping") as (letters, advance):
        async for letter, _ in letters.matching(chosen, looked_at=advance):
            await letters.remove(letter)
            dropped += 1
    return dropped


def _print_groups(groups: "list[Group]", *, as_json: bool) -> None:
    if as_json:
        print_json(groups)
    elif not groups:
        click.echo("no dead letters")
    else:
        rows = ((one.reason, one.type or "-", one.letters, _day(one.first), _day(one.last), one.id) for one in groups)
        print_table(rows, header=("REASON", "TYPE", "COUNT", "FIRST SEEN", "LAST SEEN", "LAST ID"))


def _described(letter: "Letter", cause: "Cause") -> dict[str, Any]:
    return {
        "id": letter.id,
        "reason": cause.reason,
        "detail": cause.detail,
        "worked_out": cause.worked_out,
        "type": letter.type,
        "died_at": letter.died_at,
        "published_at": letter.properties.timestamp,
        "message_id": letter.message_id,
        "worker": letter.worker,
        "headers": {name: str(value) for name, value in letter.own_headers.items()},
        "body": letter.body.decode(errors="backslashreplace"),
    }


def _print_letter(letter: "Letter", cause: "Cause") -> None:
    described = _described(letter, cause)
    echo(click.style(f"letter {letter.id}", bold=True))
    rows = [
        ("reason", f"{cause.reason}{' ?' if cause.worked_out else ''}"),
        ("detail", cause.detail),
        ("type", described["type"]),
        ("died", _time(letter.died_at)),
        ("published", _time(letter.properties.timestamp)),
        ("message id", letter.message_id),
        ("worker", letter.worker),
        *described["headers"].items(),
        ("body", described["body"]),
    ]
    print_table((f"  {name}", value or "-") for name, value in rows)


def _day(moment: datetime | None) -> str:
    """Without the year, so that the table fits 80 columns."""
    return _time(moment).partition("-")[2] or "-"


def _time(moment: datetime | None) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else "-"
