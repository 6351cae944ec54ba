"""The investigation of a stale value: joins what workers announced with what the broker's queues hold."""

import asyncio
import time
from collections.abc import Callable

from invalidator.audit.reasons import Evictions, Facts, reason_of
from invalidator.audit.tracker import Tracked
from invalidator.audit.verdict import Reason
from invalidator.broker.connection import connected
from invalidator.broker.declare import QueueInspector
from invalidator.broker.messages import Announcement
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.events.templates import fields_making
from invalidator.memcached.cluster import Cluster
from invalidator.settings import Settings

#: Seconds for which the counts of the queues are used again: in an outage many values are stale at once.
KEPT_SECONDS = 1.0


class Queues:
    """The messages in the cluster's queue and in its parking queues, as the broker counts them."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings]) -> None:
        self._topology = Topology.of(settings)
        self._read = read
        self._counting = asyncio.Lock()
        self._counts: dict[str, int] = {}
        self._until = 0.0

    async def backlog(self) -> int | None:
        return (await self._counted()).get(self._topology.queue)

    async def debts(self, label: str) -> int | None:
        return (await self._counted()).get(self._topology.parked(label))

    async def _counted(self) -> dict[str, int]:
        """Return the messages of each queue that can be counted."""
        async with self._counting:
            if time.monotonic() >= self._until:
                self._counts = await self._count()
                self._until = time.monotonic() + KEPT_SECONDS
            return self._counts

    async def _count(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        topology = self._topology
        try:
            async with connected(self._read(), "audit") as connection:
                inspector = QueueInspector(connection)
                for queue in (topology.queue, *map(topology.parked, topology.labels)):
                    if found := await inspector.inspect(queue):
                        counts[queue] = found[0]
        except InvalidatorError:
            pass  # without the broker the reason is unknown
        return counts


class Investigation:
    """A receiver of announcements that explains stale values."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings]) -> None:
        self._cluster = Cluster.of(settings)
        self._templates = [template for rule in settings.rule for template in rule.evict]
        self._queues = Queues(settings, read=read)
        self._evictions = Evictions()

    def linked(self) -> None: ...

    def lost(self) -> None: ...

    def received(self, announcement: Announcement) -> None:
        for key in announcement.keys:
            self._evictions.announced(key, announcement.parked)

    async def reason(self, key: str, label: str, tracked: Tracked) -> Reason:
        """Return the reason why a stale value is on the node with this label."""
        parked = self._evictions.since(key, tracked.at if tracked.has_event else 0.0)
        return reason_of(
            Facts(
                has_event=tracked.has_event,
                is_announced=parked is not None,
                is_parked=label in (parked or ()),
                is_placed=label in self._cluster.placement(key.encode()),
                has_rule=any(fields_making(template, key) is not None for template in self._templates),
                backlog=await self._queues.backlog(),
                debts=await self._queues.debts(label),
            )
        )
