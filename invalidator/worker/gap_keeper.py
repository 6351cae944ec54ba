"""Keeps the gaps that a worker finds: in the log and the metrics at once, and in a queue that outlives the worker."""

import asyncio
from collections.abc import Awaitable, Callable

from invalidator.broker.connection import pause
from invalidator.broker.errors import AlarmError
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remember_gap
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.runtime.logs import Log
from invalidator.worker.reporting import report_gap

log = Log(__name__)


async def _back_off() -> None:
    await asyncio.sleep(pause())


class GapKeeper:
    """The gaps of one worker, stored one by one by a task of their own."""

    def __init__(
        self,
        publisher: ConfirmedPublisher,
        topology: Topology,
        *,
        heals: bool = False,
        back_off: Callable[[], Awaitable[None]] = _back_off,
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        #: True if gaps are healed from the log.
        self._heals = heals
        self._back_off = back_off
        self._waiting: asyncio.Queue[Gap] = asyncio.Queue()

    def keep(self, gap: Gap) -> None:
        """Report a gap, and queue it to be stored."""
        report_gap(gap, heals=self._heals)
        self._waiting.put_nowait(gap)

    async def store_first(self, gap: Gap) -> None:
        """Store a gap as far as it has come, before what was lost is made again and shows it no more.

        Raises:
            AlarmError: nothing can be stored now. Any other failure is left to `run`, after the end of the gap.
        """
        try:
            await remember_gap(self._publisher, self._topology, gap)
        except AlarmError:
            raise
        except InvalidatorError as error:
            log.info("cannot store the gap yet", reason=str(error))

    async def run(self) -> None:
        """Store the gaps, each until the broker has confirmed it."""
        while True:
            gap = await self._waiting.get()
            is_logged = False
            while not await self._is_stored(gap, silent=is_logged):
                is_logged = True
                await self._back_off()

    async def _is_stored(self, gap: Gap, *, silent: bool) -> bool:
        try:
            await remember_gap(self._publisher, self._topology, gap)
        except InvalidatorError as error:
            if not silent:
                log.warning("cannot store the gap; retrying, so that it outlives this worker", reason=str(error))
            return False
        return True
