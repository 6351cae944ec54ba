"""The id behind which a relay's sweeps begin. Up to it everything is published, and no lower id can be committed.

    a sweep has published up to id 900 ─> who writes to the table? ─> all of these transactions have ended
      ─> another sweep has passed 900 ─> sweeps begin behind 900

Without it each sweep would walk over every row that was deleted since the last vacuum. And vacuum removes none of them
while any transaction in the database is older, such as that of a dump.

Rules of this file:

1. On PostgreSQL a transaction that appends has a lock on the table from before its id is taken until its rows can be
   seen. So when those have ended that had a lock once 900 was known, no id below 900 can come.
2. What they committed below 900 is found by a sweep that begins after their end. So the bound moves behind that sweep.
3. Rows of other shards, and of entities that were left out, are still there: with other shards everything begins anew,
   and a sweep that left something out moves nothing.
4. Once a minute everything begins anew, too. An application that takes ids long before it appends (as with a sequence
   that has a CACHE) gives up the order, but must not lose an event.
"""

import time
from collections.abc import Callable

from sqlalchemy import Connection, text

#: Seconds between two queries of the locks.
QUERY_SECONDS = 1.0
#: Seconds after which a sweep begins with the first row again.
ANEW_SECONDS = 60.0

#: Prepared transactions are among them.
_WRITERS = text(
    "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND relation = to_regclass(:name)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND mode = 'RowExclusiveLock'"
)
#: Other databases do not say who writes. There sweeps always begin with the first row.
_UNKNOWN = frozenset({"unknown"})


class LowerBound:
    """The id behind which a sweep begins. The methods are called in the order of the picture above."""

    def __init__(self, writers: Callable[[], frozenset[str]], *, clock: Callable[[], float] = time.monotonic) -> None:
        """``writers`` returns the transactions that write to the table now."""
        self._writers = writers
        self._clock = clock
        self._query_at = self._anew_at = 0.0
        self.reset()

    def reset(self) -> None:
        """Begin with the first row again."""
        self.id = 0
        #: The highest id up to which a sweep has published everything that it could see.
        self._published = 0
        #: The id that may become the bound, and the transactions that may still commit a lower one.
        self._candidate = 0
        self._open: frozenset[str] = frozenset()

    def ask(self) -> None:
        """Find out which transactions have ended, once a second. The next sweep must begin after this."""
        if self._clock() >= self._anew_at:
            self._anew_at = self._clock() + ANEW_SECONDS
            self.reset()
        if self._published <= self.id or self._clock() < self._query_at:
            return
        self._query_at = self._clock() + QUERY_SECONDS
        if self._candidate > self.id:
            self._open &= self._writers()
        else:
            self._candidate, self._open = self._published, self._writers()

    def passed(self, id: int, *, is_whole: bool) -> None:
        """Note that a sweep has published everything up to an id, or with ``is_whole`` all that it could see."""
        if self._candidate > self.id and not self._open and (is_whole or id >= self._candidate):
            self.id = self._candidate
        self._published = max(self._published, id)


def writers(connection: Connection, table: str) -> frozenset[str]:
    """Return names of the transactions that write to a table; call it outside of a transaction."""
    if connection.dialect.name != "postgresql":
        return _UNKNOWN
    name = connection.dialect.identifier_preparer.quote(table)
    with connection.begin():
        return frozenset(connection.scalars(_WRITERS, {"name": name}))
