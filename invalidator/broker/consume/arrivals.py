"""Compares the events in the log with what arrives from the cluster's queue. Pure.

If events come to the log and nothing arrives, the queue has lost its binding. Nobody else notices: RabbitMQ confirms
the events, as the log stores them, and a queue that gets nothing looks like one of a quiet shop.

Rules of this file:

1. Whatever arrives proves the binding, and the count begins again.
2. Only events count that came to the log after that. So none do for two seconds, and until the log was read to its end.
3. An event in the log has five seconds to arrive.
4. Other workers get most events if there are many. So the more consumers there are, the more events it takes.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime

#: Seconds in which the log shows what has arrived, and in which what the log shows arrives.
SHOWN_WITHIN, ARRIVES_WITHIN = 2.0, 5.0
#: Events for each other consumer, of which this one would get some; the broker gives them out in turn.
FOR_EACH_OTHER = 50


class Arrivals:
    """The binding of the queue, as far as one worker that reads the log can know it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.is_bound = True
        #: Before this time, everything arrived that came to the log.
        self.since = datetime.now(UTC)
        self._arrived: object = None
        self._counts_from = 0.0
        self._counts = False
        self._events = 0
        self._first = 0.0

    def has_arrived(self, arrived: object) -> bool:
        """Return True if something has arrived since the last call: then ``arrived`` is another value."""
        if arrived == self._arrived:
            return False
        self._arrived = arrived
        self.begin()
        return True

    def begin(self) -> None:
        """Begin again: the queue is bound."""
        self.is_bound, self.since = True, datetime.now(UTC)
        self._counts, self._counts_from, self._events = False, self._clock() + SHOWN_WITHIN, 0

    def compare(self, events: int, *, is_at_end: bool, waiting: int, consumers: int) -> None:
        """Record that ``events`` came to the log while nothing arrived.

        ``is_at_end`` is True if the log had no more, ``waiting`` and ``consumers`` are those of the queue.
        """
        if waiting or not consumers:
            self.begin()
        elif not self._counts:
            self._counts = is_at_end and self._clock() >= self._counts_from
        elif events or self._events:
            self._first = self._first if self._events else self._clock()
            self._events += events
            is_overdue = self._clock() - self._first >= ARRIVES_WITHIN
            self.is_bound = not (is_overdue and self._events > FOR_EACH_OTHER * (consumers - 1))
