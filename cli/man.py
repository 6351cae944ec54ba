"""Man pages, written by click's own help: a page says exactly what ``--help`` says.

The build calls `write_pages`; the pages are installed in ``share/man/man1``.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from .main import main

#: Columns, so that click shortens no help text.
WIDTH = 1000
TITLE = '.TH {name} 1 "" "invalidator {version}" "User Commands"\n'


class Roff(click.HelpFormatter):
    """Writes what click formats as a help text in the language of man pages."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f".SH SYNOPSIS\n.B {escaped(prog)}\n{escaped(args)}\n.SH DESCRIPTION\n")

    def write_heading(self, heading: str) -> None:
        self.write(f".SH {escaped(heading.rstrip(':').upper())}\n")

    def write_paragraph(self) -> None:
        """Write nothing: `write_text` and `write_dl` begin their own paragraphs."""

    def write_text(self, text: str) -> None:
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("\b"):
                self._write_as_it_is(paragraph.removeprefix("\b").strip("\n").splitlines())
            else:
                self.write(f".PP\n{escaped(' '.join(paragraph.split()))}\n")

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        for term, definition in rows:
            self.write(f".TP\n.B {escaped(term)}\n{escaped(definition)}\n")

    def _write_as_it_is(self, lines: Sequence[str]) -> None:
        if lines[0].endswith(":"):
            self.write_heading(lines[0])
            lines = lines[1:]
        self.write("".join([".nf\n", *(f"{escaped(line)}\n" for line in lines), ".fi\n"]))


def pages(version: str) -> Iterator[tuple[str, str]]:
    """Yield file name and text of the man page of every command."""
    for ctx in contexts(click.Context(main, info_name="invalidator")):
        name = ctx.command_path.replace(" ", "-")
        formatter = Roff(width=WIDTH)
        ctx.command.format_help(ctx, formatter)
        head = TITLE.format(name=name.upper(), version=version)
        short = ctx.command.get_short_help_str(limit=200).rstrip(".")
        yield f"{name}.1", f"{head}.SH NAME\n{escaped(name)} \\- {escaped(short)}\n{formatter.getvalue()}"


def contexts(ctx: click.Context) -> Iterator[click.Context]:
    """Yield a context for a command and for each one below it."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            assert command
            yield from contexts(click.Context(command, parent=ctx, info_name=name))


def escaped(text: str) -> str:
    """Escape text so that roff prints it as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in text.split("\n"))


def write_pages(folder: Path, version: str) -> list[str]:
    """Write every man page into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages(version):
        (folder / name).write_text(text)
    return sorted(str(path) for path in folder.iterdir())
