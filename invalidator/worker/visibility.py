"""Debezium's changes that no new read sees yet: they are held for a moment, then sent round by a queue.

PostgreSQL streams a commit before new reads see it, and while a synchronous standby does not answer that may take long.
An eviction in between is followed by a reader that fills the old row. `invalidator follow` waits for that itself.

Rules of this file:

1. A transaction is visible if a snapshot of the primary, taken after its event had come, shows it.
2. A batch is held for PATIENCE at most. What cannot be seen then, or what nobody can be asked about, comes again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from invalidator.errors import InvalidatorError
from invalidator.postgres.connection import connect
from invalidator.postgres.gate import Gate, current_snapshot
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import Secret

#: Seconds that a batch is held. Without a synchronous standby a commit is visible a few milliseconds after its event.
PATIENCE = 0.1
#: Seconds between two snapshots.
PAUSE = 0.002
#: Seconds that the primary has for an answer, and after which one that did not answer is asked again.
ANSWER_SECONDS = 1

log = Log(__name__)
D = TypeVar("D")


class Visibility:
    """Asks the primary which transactions new reads see; connects when first needed."""

    def __init__(self, url: Callable[[], Secret]) -> None:
        """`url` is called before each connection."""
        self._url = url
        self._gate = Gate(self._snapshot)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._ask_from = 0.0
        self._silent = Outage(log.warning, "cannot ask the primary what can be seen; its changes come again and again")

    async def unseen(self, commits: Sequence[tuple[D, int]]) -> list[tuple[D, int]]:
        """Return those changes, each with its transaction's number, that no new read sees after a moment."""
        left, until = self._left(commits), time.monotonic() + PATIENCE
        try:
            while left and time.monotonic() < until:
                await self._look()
                if left := self._left(commits):
                    await asyncio.sleep(PAUSE)
        except InvalidatorError as error:
            self._silent.lasts(str(error))
            await self.close()
            self._ask_from = time.monotonic() + ANSWER_SECONDS
        metrics.POSTPONED.inc(len(left))
        return left

    async def close(self) -> None:
        """Close the connection; never raises."""
        if self._connection:
            connection, self._connection = self._connection, None
            await connection.close()

    def _left(self, commits: Sequence[tuple[D, int]]) -> list[tuple[D, int]]:
        return [commit for commit in commits if not self._gate.is_open(commit[1])]

    async def _look(self) -> None:
        if time.monotonic() >= self._ask_from:
            await self._gate.look()
            self._silent.ends()

    async def _snapshot(self) -> str:
        if self._connection is None:
            self._connection = await connect(self._url().reveal(), within=2 * ANSWER_SECONDS)
        return await current_snapshot(self._connection, within=ANSWER_SECONDS)
