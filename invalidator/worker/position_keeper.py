"""Keeps the time before which this worker has settled every event, in a queue that outlives it."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from invalidator.broker.positions import Position, remember_position
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage

#: Seconds between two positions.
KEEP_SECONDS = 2.0
#: Seconds after which a position is stored again although it is the same: the queue keeps the newest hundred of all
#: workers, and a worker that is stuck must not be forgotten.
KEEP_AGAIN_SECONDS = 30.0

log = Log(__name__)


class PositionKeeper:
    """The position of one worker, stored every few seconds while it advances."""

    def __init__(
        self,
        position: Callable[[], tuple[datetime | None, bool]],
        publisher: ConfirmedPublisher,
        topology: Topology,
        *,
        worker: str,
    ) -> None:
        self._position = position
        self._publisher = publisher
        self._topology = topology
        self._worker = worker
        self._stored: datetime | None = None
        #: When it is stored again although it is the same, by the event loop's clock.
        self._again_at = 0.0
        self._outage = Outage(log.warning, "cannot store how far the events are settled; will try again")

    async def run(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            settled_until, is_everything = self._position()
            if settled_until and (settled_until != self._stored or now() > self._again_at):
                self._again_at = now() + KEEP_AGAIN_SECONDS
                await self._store(Position(self._worker, settled_until, is_everything))

    async def _store(self, position: Position) -> None:
        try:
            await remember_position(self._publisher, self._topology, position)
        except InvalidatorError as error:
            self._outage.lasts(str(error))
        else:
            self._stored = position.settled_until
            self._outage.ends()
