"""The gate: a change is published only once new reads see it.

PostgreSQL streams a transaction as soon as its commit record is on disk. New snapshots see its rows only later: after
the commit was finished in memory, and with synchronous replication after the standby has answered. An eviction in
between would be followed by a reader that misses, reads the old row, and stores it for good.

Source: RecordTransactionCommit in PostgreSQL's xact.c: XLogFlush, then SyncRepWaitForLSN, then ProcArrayEndTransaction.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

import psycopg

from invalidator.errors import UnreachableError
from invalidator.postgres.connection import ANSWER_SECONDS, fetch

#: Seconds between two snapshots while a transaction is not visible yet, the last one again and again. Without a standby
#: it takes less than a millisecond, and no pause of asyncio is shorter than that.
PAUSES = (0.0, 0.0, 0.0, 0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)

#: Transaction numbers in the log have 32 bits, those in a snapshot 64.
EPOCH = 1 << 32


@dataclass(frozen=True)
class VisibleTransactions:
    """The transactions that a new read sees: ``pg_current_snapshot()``."""

    xmin: int
    xmax: int
    running: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def parse(cls, text: str) -> "VisibleTransactions":
        """Read PostgreSQL's text, ``xmin:xmax:running,running``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))))

    def shows(self, xid: int) -> bool:
        """Return True if a read with this snapshot sees what the transaction, committed, has written."""
        full = self._widened(xid)
        return full < self.xmin or (full < self.xmax and full not in self.running)

    def _widened(self, xid: int) -> int:
        """Return the transaction's whole number: the one of its 32 bits that is nearest to this snapshot's."""
        full = self.xmax - self.xmax % EPOCH + xid
        if full - self.xmax > EPOCH // 2 and full >= EPOCH:
            return full - EPOCH
        if self.xmax - full > EPOCH // 2:
            return full + EPOCH
        return full


async def current_snapshot(connection: "psycopg.AsyncConnection[Any]", *, within: float = ANSWER_SECONDS) -> str:
    """Return the text of what a new read of the primary sees; raises as `fetch`."""
    ((text,),) = await fetch(connection, "SELECT pg_current_snapshot()::text", within=within)
    return str(text)


class Gate:
    """Waits until transactions are visible, asking as seldom as it can: a later snapshot shows what an earlier did."""

    def __init__(self, snapshot: Callable[[], Awaitable[str]]) -> None:
        """`snapshot` returns ``pg_current_snapshot()`` of the primary, as text."""
        self._read = snapshot
        self._last = VisibleTransactions(0, 0)
        #: The transaction that it waits for now.
        self.waits_for: int | None = None

    def is_open(self, xid: int) -> bool:
        """Return True if the last snapshot shows the transaction already."""
        return self._last.shows(xid)

    async def wait(self, xid: int) -> None:
        """Return once a new snapshot shows the transaction.

        Raises:
            UnreachableError: the primary cannot be asked.
        """
        for pause in chain(PAUSES, repeat(PAUSES[-1])):
            if self.is_open(xid):
                break
            await self.look()
            if not self.is_open(xid):
                self.waits_for = xid
                await asyncio.sleep(pause)
        self.waits_for = None

    async def look(self) -> None:
        """Take a new snapshot; raises as `wait`."""
        text = await self._read()
        try:
            self._last = VisibleTransactions.parse(text)
        except ValueError as error:
            raise UnreachableError(f"the primary answered {text!r} when asked for its snapshot") from error
