"""The investigation of a stale value: joins what was announced and published with what queues and slot still hold."""

import asyncio
import time
from collections.abc import Callable

from invalidator.audit.changes.feeds import Feeds
from invalidator.audit.changes.sampling import Sample
from invalidator.audit.reasons import Facts, Recent, reason_of
from invalidator.audit.tracked import Tracked
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
    """A receiver of announcements that explains stale values.

    It remembers of each sampled key the last eviction, the last event, and the last commit.
    """

    def __init__(
        self,
        settings: Settings,
        sample: Sample,
        feeds: Feeds,
        *,
        read: Callable[[], Settings],
    ) -> None:
        self._cluster = Cluster.of(settings)
        self._templates = [template for rule in settings.rule for template in rule.evict]
        self._queues = Queues(settings, read=read)
        self._sample = sample
        self._feeds = feeds
        self._evictions = Recent[frozenset[str]]()
        self._events = Recent[bool]()
        self._commits = Recent[int]()

    def linked(self) -> None: ...

    def lost(self) -> None: ...

    def received(self, announcement: Announcement) -> None:
        for key in announcement.keys:
            if key in self._sample:
                self._evictions.remember(key, frozenset(announcement.parked))

    def published(self, key: str) -> None:
        """Remember that an event came which makes this key."""
        self._events.remember(key, True)

    def committed(self, key: str, commit: int) -> None:
        """Remember the position of the last commit that changed this key."""
        self._commits.remember(key, commit)

    async def reason(self, key: str, label: str, tracked: Tracked) -> Reason:
        """Return the reason why a stale value is on the node with this label."""
        changed_at = tracked.at if tracked.is_change else 0.0
        parked = self._evictions.since(key, changed_at)
        return reason_of(
            Facts(
                has_event=self._has_event(key, tracked),
                is_announced=parked is not None,
                is_parked=label in (parked or ()),
                is_placed=label in self._cluster.placement(key.encode()),
                has_rule=any(fields_making(template, key) is not None for template in self._templates),
                backlog=await self._queues.backlog(),
                debts=await self._queues.debts(label),
                is_unpublished=await self._is_held(key, changed_at),
            )
        )

    def _has_event(self, key: str, tracked: Tracked) -> bool | None:
        if not tracked.is_change:
            return False
        return self._events.since(key, tracked.at) or (None if self._feeds.events_since > tracked.at else False)

    async def _is_held(self, key: str, changed_at: float) -> bool:
        commit = self._commits.since(key, changed_at)
        return commit is not None and await self._feeds.is_unpublished(commit)
