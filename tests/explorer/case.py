"""The beginning of a run, and the words in which worlds are described."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.explorer.tree import Place

KEY = "k"
#: A function that returns a number below n.
Choose = Callable[[int], int]
#: Revisions of the two entities.
Row = tuple[int, int]
#: The actor, the action and the result.
Step = tuple[str, Any, Any]


#: Faults of servers and connections: each may leave a placeholder, until it expires.
OUTAGES = ("restart", "drop", "repeat", "lose")
#: Ends of a load, and of a fill, that no reader wants. None of them may leave a placeholder.
FAILURES = ("fail", "cancel", "refuse")


class LoadError(Exception):
    """Raised by a load that fails."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The beginning of a run."""

    readers: tuple[Place, ...]
    #: The entity, 0 or 1, that each writer changes in its one commit.
    writers: tuple[int, ...]
    faults: int
    #: Of one node each.
    keys: tuple[str, ...] = (KEY,)
    #: The keys that the worker evicts: all, unless a guard is removed.
    evicted: tuple[str, ...] | None = None
    #: The faults that may happen.
    kinds: tuple[str, ...] = OUTAGES
    ticks: int = 0
    #: Ticks by which a read may lag; 0 for the primary.
    lag: int = 0
    #: True if a read returns its position.
    tells: bool = False
    #: True if a lost connection is reopened in silence, even between `gets` and `cas`: a guard removed.
    reconnects: bool = False
    #: True if an event may be taken before its commit can be seen: a guard removed.
    early: bool = False
    #: True if the one place is that of several readers of a process (see `herd`).
    is_one_process: bool = False

    @property
    def excused(self) -> bool:
        """Return True if placeholders may be left: servers or connections fail, or a read may be unproven."""
        return self.lag > 0 or any(kind in OUTAGES for kind in self.kinds)
