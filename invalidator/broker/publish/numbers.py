"""The numbers of one publisher's events, and what becomes of each: confirmed, or void. Pure, for any thread.

take ─> 7, in flight ─┬─> acked: confirmed
                      └─> returned, refused, given up: void, as no caller knows it as safe
statement: "1 to 6 are confirmed, without 3", up to the first that is in flight, until the broker has stored that
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from uuid import uuid4

from invalidator.broker.messages import Statement
from invalidator.broker.wire.number import EPOCH_LENGTH

#: Seconds between two statements of a publisher that publishes.
STATEMENT_SECONDS = 1.0

log = logging.getLogger(__name__)


class Numbers:
    """The numbers of a publisher, from 1 on; it is never copied to another process."""

    def __init__(self, publisher: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin at 1. ``publisher`` is the name that the management UI shows for its connections."""
        self.publisher = publisher
        self.epoch = uuid4().hex[:EPOCH_LENGTH]
        #: True if the broker refuses the statements, without which the numbers are of no use.
        self.is_refused = False
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 1
        #: The last number of the last statement that the broker has stored.
        self._stated = 0
        self._in_flight: set[int] = set()
        self._void: set[int] = set()
        #: The next number at a time, from the last time before the first number that no statement names.
        self._times: deque[tuple[int, float]] = deque()
        #: When a statement was made last, or the first number of the next one was taken.
        self._last = 0.0
        #: When a number was taken last.
        self._taken = 0.0

    def take(self) -> int:
        """Return the next number, for an event that is published now."""
        with self._lock:
            number = self._next
            self._next = number + 1
            self._taken = now = self._clock()
            if number == self._stated + 1:
                self._last = now
                self._times = deque([(number, now)])
            self._in_flight.add(number)
            return number

    def settled(self, number: int, *, is_void: bool = False) -> None:
        """Record that an event is confirmed, or that no caller will know so. Of several outcomes the first counts."""
        with self._lock:
            if number in self._in_flight:
                self._in_flight.remove(number)
                if is_void:
                    self._void.add(number)

    def refuse(self, reason: str) -> None:
        """Stop: the broker refuses the statements, without which numbers are of no use."""
        if not self.is_refused:
            self.is_refused = True
            log.warning(
                "events have no numbers, so losses before the log are not noticed: %s; let this user write to the "
                "exchange, see rabbitmqctl set_permissions",
                reason,
            )

    @property
    def are_stated(self) -> bool:
        """True if nothing is left to state: the broker has stored statements of every number, or refuses them."""
        return self.is_refused or self._stated == self._next - 1

    def is_due(self) -> bool:
        """Return True if there may be something to state, and the last statement is a second old."""
        return not self.are_stated and self._clock() - self._last >= STATEMENT_SECONDS

    def are_paused(self) -> bool:
        """Return True if no number was taken for a second."""
        return self._clock() - self._taken >= STATEMENT_SECONDS

    def statement(self) -> Statement | None:
        """Return what is settled since the last statement that was `stored`, None if nothing is."""
        with self._lock:
            now = self._last = self._clock()
            first, last = self._stated + 1, min(self._in_flight, default=self._next) - 1
            if last < first:
                return None
            self._times.append((self._next, now))
            while len(self._times) > 1 and self._times[1][0] <= first:
                self._times.popleft()
            void = ranges(number for number in self._void if number <= last)
            return Statement(self.publisher, self.epoch, first, last, void, age=now - self._times[0][1])

    def stored(self, statement: Statement) -> None:
        """Record that the broker has stored a statement; the next one begins behind it."""
        with self._lock:
            self._stated = max(self._stated, statement.last)
            self._void = {number for number in self._void if number > self._stated}


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and last number of each run."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
