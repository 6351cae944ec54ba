"""The position up to which everything is done: the end of the last transaction whose events are all confirmed. Pure."""

from collections import deque
from datetime import datetime
from typing import NamedTuple


class Position(NamedTuple):
    """A place in the log."""

    lsn: int
    #: When the last transaction before it was committed, if that is known.
    time: datetime | None = None


#: Before any position.
START = Position(0)


class Progress:
    """Counts events in the order of their publishing, and the positions of the log that lie between them.

    >>> progress = Progress()
    >>> progress.published = 2                    # a transaction of two events …
    >>> progress.reached(Position(100))           # … ends at position 100
    >>> progress.published = 3
    >>> progress.reached(Position(200))
    >>> progress.confirm(2), progress.position.lsn
    (2, 100)
    """

    def __init__(self) -> None:
        #: Events published so far.
        self.published = 0
        #: Events confirmed, counted from the first one without a gap.
        self.confirmed = 0
        #: Nothing before this position is left to do.
        self.position = START
        #: Positions that wait, each with the number of events before it.
        self._waiting: deque[tuple[int, Position]] = deque()

    @property
    def in_flight(self) -> int:
        return self.published - self.confirmed

    def reached(self, position: Position) -> None:
        """Note that all events of the log before this position have been published."""
        if self._waiting and self._waiting[-1][0] == self.published:
            self._waiting.pop()  # the later position stands for both
        self._waiting.append((self.published, position))
        self._advance()

    def confirm(self, count: int) -> int:
        """Note that the first `count` events are confirmed; return how many of them were not before."""
        newly, self.confirmed = count - self.confirmed, count
        self._advance()
        return newly

    def _advance(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.confirmed:
            self.position = self._waiting.popleft()[1]
