"""Announces evicted keys to near caches and warmers, on the exchange ``cache.purged``, and never holds up a batch.

The first announcement goes out at once, and those that come right after it wait a moment to be sent together: a worker
under load evicts hundreds of batches a second, and each announcement costs as much as a batch of fifty events. An
announcement that cannot be sent is dropped. Its number is not used again, so listeners notice (see `Announcement`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from invalidator.broker.messages import ANNOUNCED_KEYS, HEARTBEAT_SECONDS, Announcement, WorkerState
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology
from invalidator.broker.wire.timestamp import stamp
from invalidator.errors import InvalidatorError
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage

#: Announcements that may wait to be sent; further ones are dropped.
WAITING = 100
#: Seconds for which announcements gather after a round of sending.
GATHER_SECONDS = 0.01

log = Log(__name__)


class Announcer:
    """The announcements of one worker: numbered, and sent in order by a task of their own."""

    def __init__(
        self,
        publisher: ConfirmedPublisher,
        topology: Topology,
        *,
        worker: str,
        state: Callable[[], WorkerState | None] = lambda: None,
    ) -> None:
        self._publisher = publisher
        self._topology = topology
        self._worker = f"{worker}.{uuid4().hex[:8]}"
        self._number = 0
        #: Called once a second, for `invalidator check` and `invalidator status`.
        self._state = state
        self._stated_at = 0.0
        self._waiting: deque[Announcement] = deque()
        self._ready = asyncio.Event()
        self._outage = Outage(log.warning, "cannot send announcements; near caches will forget their copies")

    def announce(
        self,
        keys: Sequence[str],
        event_ids: Sequence[str] = (),
        parked: Collection[str] = (),
        *,
        drained: str = "",
        healed: bool = False,
    ) -> None:
        """Queue an announcement: these keys are evicted, except on the nodes in ``parked``, where they are parked.

        ``drained`` is the node from which parked keys are evicted now. ``healed`` says that the events were read again
        from the log.
        """
        labels = sorted(parked)
        for start in range(0, len(keys), ANNOUNCED_KEYS):
            part = list(keys[start : start + ANNOUNCED_KEYS])
            events = [] if start else event_ids
            last = self._waiting[-1] if self._waiting else None
            if last and (last.drained, last.healed) == (drained, healed) and _has_room(last, part, labels):
                last.keys.extend(part)
                last.events.extend(events)
            else:
                self._put(keys=part, events=list(events), parked=labels, drained=drained, healed=healed)

    def announce_everything(self, label: str) -> None:
        """Queue an announcement that a whole node was flushed."""
        self._put(everything=True, drained=label)

    def _put(self, **fields: Any) -> None:
        self._number += 1
        if len(self._waiting) == WAITING:
            metrics.ANNOUNCEMENTS_DROPPED.inc()
            return
        self._waiting.append(Announcement(self._topology.cluster, self._worker, self._number, **fields))
        self._ready.set()

    async def run(self) -> None:
        """Send announcements, and a heartbeat after each second without one."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._ready.wait()
            except TimeoutError:
                await self._send(Announcement(self._topology.cluster, self._worker, self._number))
            self._ready.clear()
            while self._waiting:
                await self._send(self._waiting.popleft())
            await asyncio.sleep(GATHER_SECONDS)

    def _with_state(self, message: Announcement) -> Announcement:
        now = monotonic()
        if now - self._stated_at < HEARTBEAT_SECONDS:
            return message
        self._stated_at = now
        return replace(message, state=self._state())

    async def _send(self, message: Announcement) -> None:
        try:
            await self._publisher.publish(
                msgspec.json.encode(self._with_state(message)),
                exchange=self._topology.purged,
                routing_key=self._topology.cluster,
                properties=Properties(
                    content_type="application/json",
                    message_type="purged",
                    # Only the log's reader asks when.
                    headers=stamp(datetime.now(UTC)) if self._topology.logged else None,
                ),
                mandatory=False,
            )
        except InvalidatorError as error:
            metrics.ANNOUNCEMENTS_DROPPED.inc()
            self._outage.lasts(str(error))
            await asyncio.sleep(HEARTBEAT_SECONDS)
        else:
            self._outage.ends()


class Healed:
    """Announces what is evicted because it was read from the log."""

    def __init__(self, announcer: Announcer) -> None:
        self._announcer = announcer

    def announce(self, keys: Sequence[str], event_ids: Sequence[str], parked: Collection[str]) -> None:
        self._announcer.announce(keys, event_ids, parked, healed=True)


def _has_room(last: Announcement, keys: Sequence[str], parked: list[str]) -> bool:
    """Return True if these keys can be added to ``last``, which waits to be sent."""
    return not last.everything and last.parked == parked and len(last.keys) + len(keys) <= ANNOUNCED_KEYS
