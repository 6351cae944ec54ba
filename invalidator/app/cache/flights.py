"""Loads that readers of one process share, so that a key is loaded once however many want it. Pure.

    first reader   claim ──> began ──> Load ──> loaded or failed ──> end
    the others     Join ──────────────────────────────────────────────┘   share it, or read again

Rules of this file:

1. At most one reader of a process is at work on a key. The others wait for the end of its flight.
2. A reader may share only a load that began after its own read did: an earlier one may have missed an eviction that
   this reader's caller knows of. A reader that may not share reads again, and one of those takes over.
3. Those that may share a failed load get its error. A load that was cancelled or interrupted is not shared.
4. A reader inside the load of a flight does not wait for it: a load that reads its own key would wait for itself.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from itertools import count
from typing import Any

from invalidator.app.cache.fork import begin_anew_after_fork


class Flight:
    """One reader's work on one key, from its first miss to its fill."""

    def __init__(self, reader: Hashable) -> None:
        self.reader = reader
        self.ended: Future[None] = Future()
        #: The moment at which the load began.
        self.began: int | None = None
        #: Returns a value of its own to each reader, or raises the load's error.
        self.result: Callable[[], Any] | None = None


class Flights:
    """The flights of a process, by key, for any number of threads and tasks."""

    def __init__(self, reader: Callable[[], Hashable]) -> None:
        self._reader = reader
        self._moments = count()
        begin_anew_after_fork(self)
        self.begin_in_child()

    def begin_in_child(self) -> None:
        self._flights: dict[str, Flight] = {}

    def now(self) -> int:
        """Return a new moment, later than all before."""
        return next(self._moments)

    def claim(self, key: str) -> tuple[Flight, bool]:
        """Return the flight of `key`, and True if it is the caller's, who has to `end` it."""
        mine = Flight(self._reader())
        flight = self._flights.setdefault(key, mine)  # atomic
        if flight.reader == mine.reader and flight is not mine:
            return mine, True  # rule 4
        return flight, flight is mine

    def end(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        flight.ended.set_result(None)


def current_reader() -> Hashable:
    """Return the thread, and the task on it if there is one."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop is running
        task = None
    return threading.get_ident(), task and id(task)
