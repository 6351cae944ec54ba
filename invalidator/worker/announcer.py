"""Tells near caches and warmers what was evicted, on the exchange ``cache.purged``; never holds up anything.

The first goes out at once, and those that come right after it wait a moment, together: a worker under load evicts
hundreds of batches a second, and each announcement costs as much as a batch of fifty. What cannot be sent is dropped,
its number is not given again, and so who listens knows (see `Announcement`).
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from invalidator.broker.messages import ANNOUNCED_KEYS, HEARTBEAT_SECONDS, Announcement
from invalidator.broker.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.runtime import metrics

#: Announcements that wait to be sent; beyond them they are dropped.
WAITING = 100
#: Seconds between two times of sending.
TOGETHER_SECONDS = 0.01

log = structlog.get_logger()


class Announcer:
    """Numbers announcements and sends them in order, from a task of its own."""

    def __init__(self, publisher: ConfirmedPublisher, topology: Topology, *, worker: str) -> None:
        self._publisher = publisher
        self._topology = topology
        self._worker = f"{worker}.{uuid4().hex[:8]}"
        self._number = 0
        self._waiting: deque[Announcement] = deque()
        self._news = asyncio.Event()
        self._reachable = True

    def announce(self, keys: Sequence[str], event_ids: Sequence[str] = (), parked: Collection[str] = ()) -> None:
        """Queue what says that these keys are evicted, or owed by the nodes in ``parked``."""
        owing = sorted(parked)
        for start in range(0, len(keys), ANNOUNCED_KEYS):
            part = list(keys[start : start + ANNOUNCED_KEYS])
            events = [] if start else event_ids
            if self._waiting and _has_room(last := self._waiting[-1], part, owing):
                last.keys.extend(part)
                last.events.extend(events)
            else:
                self._put(keys=part, events=list(events), parked=owing)

    def announce_everything(self) -> None:
        """Queue what says that a whole node was emptied."""
        self._put(everything=True)

    def _put(self, **said: Any) -> None:
        self._number += 1
        if len(self._waiting) == WAITING:
            metrics.ANNOUNCEMENTS_DROPPED.inc()
            return
        self._waiting.append(Announcement(self._topology.cluster, self._worker, self._number, **said))
        self._news.set()

    async def run(self) -> None:
        """Send announcements, and a heartbeat whenever a second passes without one."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                await self._send(Announcement(self._topology.cluster, self._worker, self._number))
            self._news.clear()
            while self._waiting:
                await self._send(self._waiting.popleft())
            await asyncio.sleep(TOGETHER_SECONDS)

    async def _send(self, message: Announcement) -> None:
        try:
            await self._publisher.publish(
                msgspec.json.encode(message),
                exchange=self._topology.purged,
                routing_key=self._topology.cluster,
                properties=Properties(content_type="application/json", message_type="purged"),
                mandatory=False,
            )
        except InvalidatorError as error:
            metrics.ANNOUNCEMENTS_DROPPED.inc()
            if self._reachable:
                log.warning("announcements are being lost; near caches will notice", reason=str(error))
            self._reachable = False
            await asyncio.sleep(HEARTBEAT_SECONDS)
        else:
            self._reachable = True


def _has_room(last: Announcement, keys: Sequence[str], parked: list[str]) -> bool:
    """Whether these keys can be announced with those of ``last``, which waits."""
    return not last.everything and last.parked == parked and len(last.keys) + len(keys) <= ANNOUNCED_KEYS
