"""Printing: tables on a terminal, plain text in a pipe, JSON for programs, and never a terminal's control codes."""

import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import click

if TYPE_CHECKING:  # imported when needed, so that `--help` is quick
    from invalidator.operate.findings import Finding


#: Errors of writing that are no fault of ours: a full disk, a broken pipe, a closed descriptor.
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE, errno.EBADF)


@contextmanager
def output_guarded() -> Iterator[None]:
    """End with one line and exit code 1 if the output cannot be written, and go on without closed streams (``>&-``)."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        sys.stdout = _nowhere()  # which the interpreter flushes when it ends
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                note(f"cannot write the output: {error.strerror}")
        sys.exit(1)


def _nowhere() -> TextIO:
    return open(os.devnull, "w")  # noqa: PTH123  open until the process ends


def printable(text: object) -> str:
    """Escape what a terminal would obey, or would not show, in foreign text, as ``\\x1b``."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def print_json(data: Any, *, indent: int | None = 2) -> None:
    """Print data on standard output, ASCII only."""
    import msgspec  # here, so that `--help` is quick

    click.echo(json.dumps(msgspec.to_builtins(data), indent=indent))


def print_table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> None:
    """Print rows on standard output: folded to the width of a terminal, or a line each in a pipe."""
    cells = [tuple(printable(cell) for cell in row) for row in rows]
    if sys.stdout.isatty():
        _draw(cells, header)
        return
    shown = [tuple(header), *cells] if header else cells
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def echo(text: str) -> None:
    """Print, in colours only on a terminal that wants them."""
    click.echo(text, color=wants_colour(sys.stdout))


def note(text: str) -> None:
    """Print a message for the person at the terminal, on standard error, beside the data."""
    click.echo(f"invalidator: {printable(text)}", err=True)


def wants_colour(stream: TextIO) -> bool:
    """Return True on a terminal, unless $NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plural(count: int, thing: str) -> str:
    """Return ``1 key``, ``2 keys``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


#: Between two states of a progress bar. More often would cost more than the work that it shows.
REDRAW_SECONDS = 0.1
#: The word before a finding, and its colour.
LEVELS = {"ok": ("OK", "green"), "note": ("NOTE", "yellow"), "unverified": ("?", "yellow"), "wrong": ("WRONG", "red")}
GRAVEST_FIRST = ("wrong", "unverified", "note", "ok")


def print_findings(findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """Print each finding on a line with its fix below. Faults come first, so that no screen hides them."""
    if as_json:
        from invalidator.operate.findings import findings_as_fields

        print_json(findings_as_fields(findings))
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
    """Yield the line of a finding, and the line of its fix."""
    yield LEVELS[finding.level][0], finding.what, printable(finding.text)
    if finding.fix:
        yield "", "", f"fix: {printable(finding.fix)}"


def _draw(rows: Iterable[Sequence[str]], header: Sequence[str] = (), styles: Mapping[str, str] | None = None) -> None:
    """Print a table of printable cells. ``styles`` maps the text of a row's first cell to its colour."""
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
    """A function that moves a progress bar on."""

    def __call__(self, more: int = 1, /) -> None: ...


@contextmanager
def progress(doing: str, total: int | None) -> Iterator[Advance]:
    """Show a bar on standard error if that is a terminal. Yields the function that moves it on."""
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
