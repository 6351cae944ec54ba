"""Finds a cluster's queue at the beginning of a session, makes it if it is missing, and opens a gap if it was lost.

Rules of this file:

1. A missing queue is made again only once its gap is stored, while an alarm keeps it from being stored: the missing
   queue shows the gap to the next worker, and nothing can be published to it meanwhile.
2. How far events are settled moves on only while no gap is open: the gap begins there.
3. A gap begins where the slowest worker of the cluster stood, which may be another one, and may have died: what it
   held was lost with the queue.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

from invalidator.broker.consume.session import Session
from invalidator.broker.errors import AlarmError
from invalidator.broker.gap import Gap, GapTracker
from invalidator.broker.gaps import is_first_start
from invalidator.broker.positions import remembered_position
from invalidator.broker.topology import Topology
from invalidator.errors import RefusedError, UnreachableError
from invalidator.settings import BrokerSettings

#: Tries to read the positions, and seconds between two: another worker may hold them at this moment.
TRIES, READ_AGAIN_SECONDS = 5, 0.2


class QueueFinder:
    """The look for the queue, before it is consumed."""

    def __init__(self, topology: Topology, gaps: GapTracker, store_gap: Callable[[Gap], Awaitable[None]]) -> None:
        self._topology = topology
        self._gaps = gaps
        #: Called before a missing queue is made again. Only an `AlarmError` of it keeps the queue from being made.
        self._store_gap = store_gap

    async def find(self, session: Session, broker: BrokerSettings) -> None:
        """Return once the queue is there.

        Raises:
            UnreachableError: it is missing, and this worker does not declare it, or cannot store the gap first.
        """
        await self._recall(session)
        await self._see_the_log(session)
        began, found = datetime.now(UTC), await session.inspect(self._topology.queue)
        if found is None and (self._gaps.has_consumed or not await is_first_start(session.inspect, self._topology)):
            self._gaps.open("the queue was not there")
        if self._gaps.is_open:
            await self._reach_back(session)
        if found is None:
            await self._is_missing(broker)
        if broker.declare == "active":
            await session.declare(self._topology)
            await self._see_the_log(session)
        if found is None:
            began = datetime.now(UTC)
        nothing_waits = not (found and found[0])
        if nothing_waits and not self._gaps.is_open:
            self._gaps.advance(began)

    async def _see_the_log(self, session: Session) -> None:
        """Record that the log is there, before the time from which on a gap may count."""
        nothing_to_see = self._topology.logged is None or session.log_seen_at is not None
        if not nothing_to_see and await session.inspect(self._topology.log) is not None:
            session.log_seen_at = datetime.now(UTC)

    async def _recall(self, session: Session) -> None:
        """Take over how far the workers before this one had settled the events."""
        if self._topology.logged and self._gaps.position is None:
            with suppress(RefusedError):  # of a version without a log; `check` names the permission
                self._gaps.advance(await remembered_position(session.connection, self._topology))

    async def _reach_back(self, session: Session) -> None:
        """Let the open gap begin where the slowest worker of the cluster stood."""
        if self._topology.logged is None:
            return
        for _ in range(TRIES):
            with suppress(RefusedError):
                self._gaps.reach_back(await remembered_position(session.connection, self._topology))
            if self._gaps.position:
                return
            await asyncio.sleep(READ_AGAIN_SECONDS)

    async def _is_missing(self, broker: BrokerSettings) -> None:
        if broker.declare == "passive":
            queue = self._topology.queue
            raise UnreachableError(f'there is no queue "{queue}"; to make it: invalidator topology declare')
        if gap := self._gaps.so_far():
            try:
                await self._store_gap(gap)
            except AlarmError as error:
                raise UnreachableError(f"the queue is missing, and its gap must be stored first: {error}") from error
