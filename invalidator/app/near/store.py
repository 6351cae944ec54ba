"""The copies that one process holds, and the rules for trusting them. Pure: the listener feeds it announcements.

    reader    find ─┬─ a copy: serve it                    listener    linked ─> announcements ─> lost
                    └─ None: begin ─> read below ─> keep or leave

Rules of this file:

1. No copy is served longer than its `max_age` after its read *began*, regardless of announcements.
2. If any announcement may have been missed, all copies are dropped. (A number was skipped, a worker is silent, or the
   link is lost or new.) While no worker is announcing nothing is kept, and each read goes to the layer below.
3. A read is not kept if its key was announced, or all copies were dropped, while it was pending: it may have read
   before the eviction. Of several reads of one key only the one that began last is kept.
4. A hit takes no lock: finding a copy in a dictionary is one step, before which it was dropped or not. Everything else
   holds the lock.
5. Keys that are parked for a node (`Announcement.parked`) are treated like the others. A new read of them is as old as
   the layer below. Once the debt of that node is drained they are announced again.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from invalidator.app.near.sequence import SequenceTracker
from invalidator.broker.messages import Announcement
from invalidator.runtime import metrics


@dataclass(slots=True, eq=False)
class Copy:
    """A value, and the time until which it may be served."""

    value: Any
    until: float
    #: True if it was served since it was last passed over for another one.
    was_served: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PendingRead:
    """A read of the layer below that has begun and not ended."""

    key: str
    began: float


class Copies:
    """At most ``size`` copies, for any number of threads. Those that are not served make room for new ones."""

    def __init__(self, *, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._copies: OrderedDict[str, Copy] = OrderedDict()
        #: The latest pending read of each key.
        self._pending: dict[str, PendingRead] = {}
        self._workers = SequenceTracker()
        self._linked = False

    def __len__(self) -> int:
        return len(self._copies)

    # For readers

    def find(self, key: str) -> Copy | None:
        """Return the copy to serve, if there is one."""
        copy = self._copies.get(key)
        if copy is None:
            return None
        now = self._clock()
        if now >= copy.until or now >= self._workers.silent_at:
            return None
        copy.was_served = True
        return copy

    def begin(self, key: str) -> PendingRead:
        """Begin a read of the layer below, which ends with `keep` or `leave`."""
        with self._lock:
            read = self._pending[key] = PendingRead(key, self._now())
            return read

    def keep(self, read: PendingRead, value: Any, *, max_age: float) -> None:
        """End a read, and keep its value unless something happened to its key meanwhile."""
        with self._lock:
            self._now()
            if self._end(read) and self._linked and self._workers:
                self._copies.pop(read.key, None)
                self._make_room()
                self._copies[read.key] = Copy(value, read.began + max_age)

    def leave(self, read: PendingRead) -> None:
        """End a read without keeping its value. A read that has already ended is left as it is."""
        with self._lock:
            self._end(read)

    # For the listener

    def linked(self) -> None:
        """Begin to trust the link: from now on every announcement arrives, or its number is missed."""
        with self._lock:
            self._forget("link")
            self._linked = True

    def lost(self) -> None:
        """Drop everything: announcements no longer arrive."""
        with self._lock:
            self._forget("link")
            self._linked = False
            self._workers.clear()

    def received(self, announcement: Announcement) -> None:
        """Drop the copies of the announced keys, or everything after a gap or a flush."""
        with self._lock:
            if not self._workers.record(announcement, self._now()):
                self._forget("gap")
            elif announcement.everything:
                self._forget("flush")
            for key in announcement.keys:
                self._copies.pop(key, None)
                self._pending.pop(key, None)

    # Under the lock

    def _now(self) -> float:
        """Return the current time, after dropping workers that have gone silent."""
        now = self._clock()
        if self._workers.expire_silent(now):
            self._forget("silence")
        return now

    def _make_room(self) -> None:
        """Drop the oldest copy that was not served since it was kept, or last passed over."""
        while self._copies and len(self._copies) >= self._size:
            key, copy = self._copies.popitem(last=False)
            if copy.was_served:
                copy.was_served = False
                self._copies[key] = copy

    def _end(self, read: PendingRead) -> bool:
        """Return True if this read was still pending, with nothing in between."""
        if self._pending.get(read.key) is not read:
            return False
        del self._pending[read.key]
        return True

    def _forget(self, reason: str) -> None:
        self._copies.clear()
        self._pending.clear()
        metrics.NEAR_FORGOTTEN.labels(reason).inc()
