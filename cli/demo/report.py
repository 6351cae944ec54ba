"""How the story looks: narration, the table of the acts, the way to the management UI."""

import textwrap
from collections.abc import Sequence
from statistics import median
from urllib.parse import unquote, urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from invalidator.settings import masked

from .acts import Act
from .figures import duration


class Report:
    """Prints to standard output: with colours on a terminal, as plain text elsewhere."""

    def __init__(self) -> None:
        self._console = Console(markup=False, emoji=False)

    def title(self, line: str) -> None:
        self._console.print()
        self._console.print(line, style="bold", highlight=False)

    def say(self, text: str) -> None:
        lines = textwrap.wrap(text, self._console.width - 2, break_long_words=False, break_on_hyphens=False)
        self._console.print("\n".join(f"  {line}" for line in lines), soft_wrap=True)

    def command(self, line: str) -> None:
        """A line to copy, which is therefore never broken."""
        self._console.print(f"    {line}", soft_wrap=True)

    def table(self, acts: Sequence[Act]) -> None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("", style="bold")
        table.add_column("old price\nserved for", justify="right")
        table.add_column("\nat worst", justify="right")
        table.add_column("database\nqueries")
        table.add_column("copies\nevicted", justify="right")
        table.add_column("who has to\nknow whom")
        for act in acts:
            table.add_row(act.name, *_staleness(act), _queries(act), f"{act.evicted} of {act.outdated}", act.knows)
        self._console.print()
        self._console.print(table)
        self._console.print()


def _staleness(act: Act) -> tuple[str, str]:
    """Median and worst."""
    seconds = act.watched.staleness
    return (duration(median(seconds)), duration(max(seconds))) if seconds else ("ever", "ever")


def _queries(act: Act) -> str:
    parts = [f"{count} {name}" for count, name in ((act.polls, "polls"), (act.reloads, "reloads")) if count]
    return "\n".join(parts) or "none"


def login(management: str, broker: str) -> str:
    """Where the management UI is and who may log in; a password that is not RabbitMQ's own default stays hidden."""
    parts = urlsplit(broker)
    password = "guest" if _is_default(broker) else "as in --broker"
    return f"{management}  (user {unquote(parts.username or 'guest')}, password {password})"


def shown(broker: str) -> str:
    """The broker's URL, with the password where it is no secret."""
    return broker if _is_default(broker) else masked(broker)


def _is_default(broker: str) -> bool:
    return urlsplit(broker).password in (None, "guest")
