"""The copies that one process holds, and whether they may still be believed. Pure: it is told what is heard.

    reader    look ─┬─ Copy: serve it                      listener    linked ─> heard, heard, … ─> lost
                    └─ Reading ─> read below ─> keep or leave

Rules of this file:

1. No copy is served longer than its `max_age` after the read that brought it *began*, whatever is heard or not.
2. Whatever may have gone unheard (a number skipped, a worker silent, the link lost or new) means: forget everything.
   While nobody is heard nothing is kept, and each read goes to the layer below.
3. A read that was under way when its key was announced, or everything forgotten, is not kept: nobody knows on which
   side of the eviction it read. Of several reads of one key only the one that began last is kept.
4. Keys that some node still owes (`Announcement.parked`) are treated like the others: read again, they are as old as
   the layer below, and once that node has paid they are announced once more.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from invalidator.app.near.sequence import Roll
from invalidator.broker.messages import Announcement
from invalidator.runtime import metrics


@dataclass(frozen=True, slots=True)
class Copy:
    """A value, and until when it may be served."""

    value: Any
    until: float


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A read of the layer below, under way."""

    key: str
    began: float


class Copies:
    """At most ``size`` copies; for any number of threads."""

    def __init__(self, *, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._copies: LRUCache[str, Copy] = LRUCache(size)
        #: The latest read of each key that is under way.
        self._readings: dict[str, Reading] = {}
        self._roll = Roll()
        self._linked = False

    def __len__(self) -> int:
        return len(self._copies)

    # What readers do

    def look(self, key: str) -> Copy | Reading:
        """The copy to serve; or a read that has begun, to be ended by `keep` or `leave`."""
        with self._lock:
            now = self._now()
            copy = self._copies.get(key)
            if copy and now < copy.until:
                return copy
            reading = self._readings[key] = Reading(key, now)
            return reading

    def keep(self, reading: Reading, value: Any, *, max_age: float) -> None:
        """End a read: serve what it brought from now on, unless something happened to its key meanwhile."""
        with self._lock:
            self._now()
            if self._end(reading) and self._linked and self._roll:
                self._copies[reading.key] = Copy(value, reading.began + max_age)

    def leave(self, reading: Reading) -> None:
        """End a read that brought nothing to keep; one that is ended already stays so."""
        with self._lock:
            self._end(reading)

    # What the listener tells

    def linked(self) -> None:
        """From now on every announcement is heard, or its number is missed."""
        with self._lock:
            self._forget("link")
            self._linked = True

    def lost(self) -> None:
        """Nothing is heard any more."""
        with self._lock:
            self._forget("link")
            self._linked = False
            self._roll.clear()

    def received(self, announcement: Announcement) -> None:
        with self._lock:
            if not self._roll.hear(announcement, self._now()):
                self._forget("gap")
            elif announcement.everything:
                self._forget("flush")
            for key in announcement.keys:
                self._copies.pop(key, None)
                self._readings.pop(key, None)

    # Below the lock

    def _now(self) -> float:
        """The time, by which whoever is silent is struck off."""
        now = self._clock()
        if self._roll.strike_silent(now):
            self._forget("silence")
        return now

    def _end(self, reading: Reading) -> bool:
        """Whether this read was under way, and nothing came between."""
        if self._readings.get(reading.key) is not reading:
            return False
        del self._readings[reading.key]
        return True

    def _forget(self, reason: str) -> None:
        self._copies.clear()
        self._readings.clear()
        metrics.NEAR_FORGOTTEN.labels(reason).inc()
