"""How commands print: aligned text for people, JSON for programs, and nothing that could command a terminal."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import click
import msgspec

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.findings import Finding


def printable(text: object) -> str:
    """Foreign text with whatever a terminal would obey, or would not show, escaped as ``\\x1b``."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def print_json(data: Any) -> None:
    """Data on standard output, ASCII only."""
    click.echo(json.dumps(msgspec.to_builtins(data), indent=2))


def print_table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
    """Rows on standard output, each column as wide as its widest cell."""
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    shown = [tuple(header), *cells] if header else cells
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for number, row in enumerate(shown):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        echo(click.style(line, bold=True) if header and number == 0 else line)


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
    """A line for each finding, and its mend below it; what is wrong first, so that no screen hides it."""
    if as_json:
        print_json(findings)
        return
    width = max((len(finding.what) for finding in findings), default=0)
    for finding in sorted(findings, key=lambda finding: GRAVEST_FIRST.index(finding.level)):
        word, colour = LEVELS[finding.level]
        echo(f"{click.style(word.ljust(5), fg=colour)}  {finding.what.ljust(width)}  {printable(finding.text)}")
        if finding.mend:
            echo(f"{' ' * (width + 9)}mend: {printable(finding.mend)}")


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; yields what is called once for each thing done."""
    if not sys.stderr.isatty() or total == 1:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task, done, drawn = bar.add_task(doing, total=total), 0, 0.0

        def advance() -> None:
            nonlocal done, drawn
            done += 1
            if (now := monotonic()) - drawn > REDRAW_SECONDS:
                drawn = now
                bar.update(task, completed=done)

        yield advance


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
