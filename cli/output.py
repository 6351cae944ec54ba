"""How commands print: tables on a terminal, plain text in a pipe, JSON for programs; never what a terminal obeys."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.findings import Finding


def printable(text: object) -> str:
    """Foreign text with whatever a terminal would obey, or would not show, escaped as ``\\x1b``."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Data on standard output, ASCII only."""
    import msgspec  # here, so that `--help` is quick

    click.echo(json.dumps(msgspec.to_builtins(data), indent=indent))


def print_table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
    """Rows on standard output: folded to the width of a terminal, in a pipe a line each."""
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    if sys.stdout.isatty():
        _draw(cells, header)
        return
    shown = [tuple(header), *cells] if header else cells
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def echo(text: str) -> None:
    """Print, in colours only where there is a terminal that wants them."""
    click.echo(text, color=wants_colour(sys.stdout))


def note(text: str) -> None:
    """A word to the person at the terminal, beside the data: on standard error."""
    click.echo(f"invalidator: {printable(text)}", err=True)


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: on a terminal, unless $NO_COLOR says otherwise (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plural(count: int, thing: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


#: Between two states of a progress bar: more often costs more than what it tells of.
REDRAW_SECONDS = 0.1
#: What stands before a finding, and its colour.
LEVELS = {"ok": ("OK", "green"), "note": ("NOTE", "yellow"), "unverified": ("?", "yellow"), "wrong": ("WRONG", "red")}
GRAVEST_FIRST = ("wrong", "unverified", "note", "ok")


def print_findings(findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """A line for each finding, and its fix below it; what is wrong first, so that no screen hides it."""
    if as_json:
        print_json(findings)
        return
    gravest_first = sorted(findings, key=lambda finding: GRAVEST_FIRST.index(finding.level))
    lines = [line for finding in gravest_first for line in _lines(finding)]
    if sys.stdout.isatty():
        _draw(lines, styles=dict(LEVELS.values()))
        return
    width = max((len(what) for _, what, _ in lines), default=0)
    for word, what, text in lines:
        click.echo(f"{word.ljust(5)}  {what.ljust(width)}  {text}")


def _lines(finding: "Finding") -> Iterator[tuple[str, str, str]]:
    """What it says, and below that its fix."""
    yield LEVELS[finding.level][0], finding.what, printable(finding.text)
    if finding.fix:
        yield "", "", f"fix: {printable(finding.fix)}"


def _draw(rows: Iterable[Sequence[str]], header: Sequence[str] = (), styles: Mapping[str, str] | None = None) -> None:
    """A table of cells that are printable already; ``styles`` colours a row's first cell by what it says."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    listed = list(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold", show_header=bool(header))
    for number, column in enumerate(zip(*listed, strict=True) if listed else [()] * len(header)):
        is_number = bool(column) and all(cell.replace(".", "", 1).isdecimal() for cell in column)
        title = Text(header[number]) if header else ""
        table.add_column(title, justify="right" if is_number else "left", overflow="fold")
    for first, *others in listed:
        table.add_row(Text(first, (styles or {}).get(first, "")), *map(Text, others))
    Console().print(table)


class Advance(Protocol):
    """What moves a progress bar on."""

    def __call__(self, more: int = 1, /) -> None: ...


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[Advance]:
    """A bar on standard error, if that is a terminal; yields what is told how many more things are done."""
    if not sys.stderr.isatty() or total == 1:
        yield lambda _=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, done, drawn = bar.add_task(doing, total=total), 0, 0.0

        def advance(more: int = 1) -> None:
            nonlocal done, drawn
            done += more
            if (now := monotonic()) - drawn > REDRAW_SECONDS:
                drawn = now
                bar.update(task, completed=done)

        yield advance


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
