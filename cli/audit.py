"""`invalidator audit`: compare the caches with their source, until stopped; `report`: the number, with its bound."""

import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any

import click

from .options import EXAMPLES, config_option, load_settings, output_option
from .output import echo, note, print_json, print_table
from .staleness import ASCII_BLOCKS, BLOCKS, bars, points, svg
from .suggestions import Suggesting

if TYPE_CHECKING:
    from invalidator.audit.account import Finding
    from invalidator.audit.auditor import Auditor
    from invalidator.audit.summary import Line
    from invalidator.operate.diagnosis.audit_report import Report
    from invalidator.settings import Settings


@click.group(
    cls=Suggesting,
    invoke_without_command=True,
    epilog="Exit codes: 0 stopped by a signal, 78 the configuration cannot work, or there is no such source.\n\n"
    + EXAMPLES
    + "  invalidator audit --source shop.caching:source\n"
    + "  invalidator audit --source shop.caching:source --no-repair\n"
    + "  systemctl start invalidator-audit@eu",
)
@config_option
@click.option(
    "--source",
    metavar="MODULE:FUNCTION",
    help="Function that reads the truth of a key; by default audit.source.",
)
@click.option("--no-repair", is_flag=True, help="Report permanently stale values, and do not remove them.")
@click.pass_context
def command(context: click.Context, config: Path | None, source: str | None, no_repair: bool) -> None:
    """Measure how often the caches are wrong, and remove values that stay stale.

    Changes are taken from PostgreSQL's log if follow.url names a database, else from the events on the exchange. Then a
    change that was never published is not seen, except for the keys in audit.keys. For a share of all keys
    (audit.share) the value on every node is compared with the source 0.1, 1, 10 and 60 seconds after the change. The
    source is a function of the application, which gets a key, and returns a function that reads its value from the
    primary, or None. It is searched for in the working directory, too.

    Runs until SIGTERM or SIGINT. SIGHUP reads the configuration again. It waits for an absent broker or database.
    """
    if context.invoked_subcommand:
        return
    from msgspec.structs import replace

    from invalidator.settings.schema import AUDIT_PORT

    from .serving import serve

    sys.path.insert(0, str(Path.cwd()))

    def auditor(settings: "Settings", **others: Any) -> "Auditor":
        from invalidator.audit.auditor import Auditor
        from invalidator.audit.truth import source_of

        if no_repair:
            settings = replace(settings, audit=replace(settings.audit, repair=False))
        return Auditor(settings, source_of(source or settings.audit.source), **others)

    serve(config, auditor, port=AUDIT_PORT)


@command.command(
    epilog="Exit codes: 0 done, 78 there is no account here; audit.account names its file.\n\n"
    + EXAMPLES
    + "  invalidator audit report\n"
    + "  invalidator audit report --config /etc/invalidator/eu.toml -o json\n"
    + "  invalidator audit report --plot staleness.svg",
)
@config_option
@output_option
@click.option("--limit", type=click.IntRange(min=0), default=10, help="The largest number of stale values to show.")
@click.option(
    "--plot",
    metavar="FILE.svg",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the share of stale values over the time since the change into this file.",
)
def report(config: Path | None, as_json: bool, limit: int, plot: Path | None) -> None:
    """Show how often the caches were wrong in the last day and week, and the last stale values.

    NINES is exact with a confidence of 95 %: of changes that were checked, and of those whose key had a value. If
    nothing was stale, it assumes that checks fail independently of each other. MINUTES is the same of minutes without
    a stale value, and assumes nothing about the checks in one minute. The bars show how many values were stale, and how
    many may have been.
    """
    from invalidator.operate.diagnosis.audit_report import as_fields
    from invalidator.operate.diagnosis.audit_report import report as made

    found = made(load_settings(config), limit=limit)
    if plot:
        _plot(plot, found)
    if as_json:
        print_json(as_fields(found))
        return
    if not found.day and not found.week:
        note("nothing was checked yet")
    for title, lines in (("LAST DAY", found.day), ("LAST WEEK", found.week)):
        if lines:
            print_table(
                _rows(lines), header=(title, "CHECKED", "VALUES", "STALE", "COVERAGE", "NINES", "OF VALUES", "MINUTES")
            )
            echo("")
    title, lines = ("LAST DAY", found.day) if found.day else ("LAST WEEK", found.week)
    if shown := points(lines):
        for row in bars(shown, title=title, width=get_terminal_size().columns, blocks=_blocks()):
            echo(row)
        echo("")
    if found.stale:
        print_table(_stale(found.stale), header=("WHEN", "KEY", "NODE", "AFTER", "VERDICT", "REASON", "REMOVED"))


def _plot(file: Path, found: "Report") -> None:
    from invalidator.errors import ConfigurationError

    try:
        file.write_text(svg({"last day": points(found.day), "last week": points(found.week)}))
    except OSError as error:
        raise ConfigurationError(f"--plot {file} cannot be written: {error.strerror}") from error


def _blocks() -> str:
    """Return the blocks that standard output can show."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return ASCII_BLOCKS
    return BLOCKS


def _rows(lines: "Iterable[Line]") -> Iterator[tuple[object, ...]]:
    from invalidator.audit.summary import percent
    from invalidator.bound import nines

    for line in lines:
        rates = (line.changes.checks, line.values.checks, line.changes.minutes)
        counts = (line.checked, line.present, line.stale)
        yield (f"within {line.delay:g} s", *counts, percent(line.coverage), *map(nines, rates))


def _stale(findings: "Iterable[Finding]") -> Iterator[tuple[object, ...]]:
    for one in findings:
        when = datetime.fromtimestamp(one.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        removed = "yes" if one.repaired else "no"
        yield when, one.key, one.node, f"{one.delay:g} s", one.verdict.value, one.reason.value, removed
