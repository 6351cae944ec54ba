"""The output of the story: narration, tables, a plot, and the address of the management UI."""

import textwrap
from collections.abc import Sequence
from statistics import median
from urllib.parse import unquote, urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from invalidator.settings import masked

from .acts import Act
from .figures import ASCII_BLOCKS, BLOCKS, columns, duration
from .hot import BY
from .warming import PACES, SLICE, Run

WARMING = {False: "warming off", True: "warming on"}
#: Lines of a plot, and the space between two plots.
HEIGHT, GAP = 3, "   "


class Report:
    """Prints to standard output, with colours on a terminal and as plain text elsewhere."""

    def __init__(self) -> None:
        self._console = Console(markup=False, emoji=False)

    def title(self, line: str) -> None:
        self._console.print()
        self._console.print(line, style="bold", highlight=False)

    def say(self, text: str) -> None:
        lines = textwrap.wrap(text, self._console.width - 2, break_long_words=False, break_on_hyphens=False)
        self._console.print("\n".join(f"  {line}" for line in lines), soft_wrap=True)

    def command(self, line: str) -> None:
        """Print a line for copying, which is never wrapped."""
        self._console.print(f"    {line}", soft_wrap=True)

    def table(self, acts: Sequence[Act]) -> None:
        table = _table()
        table.add_column("old price\nserved for", justify="right")
        table.add_column("\nat worst", justify="right")
        table.add_column("database\nqueries")
        table.add_column("copies\nevicted", justify="right")
        table.add_column("both sides\nmust know")
        for act in acts:
            table.add_row(act.name, *_staleness(act), _queries(act), f"{act.evicted} of {act.outdated}", act.knows)
        self._print(table)

    def loads(self, runs: Sequence[Run]) -> None:
        """Plot the loads of the database, one row of columns without warming and one with."""
        top = max(max(run.counts(*BY)) for run in runs)
        blocks = ASCII_BLOCKS if self._console.options.ascii_only else BLOCKS
        self._console.print()
        self.say(f"Database loads, one column per {duration(SLICE)}; the highest column is {top} loads:")
        for is_warmed in (False, True):
            shown = [run for run in runs if run.is_warmed is is_warmed]
            plots = [columns(run.counts(*BY), top=top, height=HEIGHT, blocks=blocks) for run in shown]
            self._console.print()
            for label, row in zip(["", "", WARMING[is_warmed]], zip(*plots, strict=True), strict=True):
                self._plain(f"  {label:13}{GAP.join(row)}")
        self._plain(f"  {'':13}{GAP.join(str(run.pace).ljust(len(run.counts())) for run in shown)}")

    def customers(self, runs: Sequence[Run]) -> None:
        """Print a table of the waits of customers."""
        table = _table()
        for heading in ("", "loads by\ncustomers", "\nwarmer", "reads that\nhad to wait", "99 % of\nreads within"):
            table.add_column(heading, justify="right", no_wrap=True)
        for run in sorted(runs, key=lambda run: PACES.index(run.pace)):
            loads = [str(run.count(by)) for by in BY]
            waited = f"{run.cold} of {len(run.reads)}"
            table.add_row(str(run.pace), WARMING[run.is_warmed], *loads, waited, duration(run.p99))
        self._print(table)

    def _plain(self, line: str) -> None:
        self._console.print(line.rstrip(), soft_wrap=True, highlight=False)

    def _print(self, table: Table) -> None:
        self._console.print()
        self._console.print(table)
        self._console.print()


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", style="bold")
    return table


def _staleness(act: Act) -> tuple[str, str]:
    """Return median and maximum."""
    seconds = act.watched.staleness
    return (duration(median(seconds)), duration(max(seconds))) if seconds else ("for ever", "for ever")


def _queries(act: Act) -> str:
    parts = [f"{count} {name}" for count, name in ((act.polls, "polls"), (act.reloads, "reloads")) if count]
    return "\n".join(parts) or "none"


def login(management: str, broker: str) -> str:
    """Return the address and login of the management UI. Only RabbitMQ's default password is shown."""
    parts = urlsplit(broker)
    password = "guest" if _is_default(broker) else "as in --broker"
    return f"{management}  (user {unquote(parts.username or 'guest')}, password {password})"


def shown(broker: str) -> str:
    """Return the broker's URL, with the password only if it is RabbitMQ's default one."""
    return broker if _is_default(broker) else masked(broker)


def _is_default(broker: str) -> bool:
    return urlsplit(broker).password in (None, "guest")
