"""The announcements of a key or an event by the workers of a cluster, and the events that none of them announced.

    announcements ─┬─> is the key, or one of the events, among them? ─> evicted, parked where, drained, healed
                   └─> what is missing among their numbers? ─> events of which nothing was announced, or perhaps lost

The first announcement of a batch names all of its events, so an event that none names was not evicted by then.
"""

from collections.abc import Collection, Iterable, Iterator
from datetime import datetime, timedelta

from invalidator.broker.messages import Announcement, read_announcement
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import published_at
from invalidator.errors import PoisonError
from invalidator.memcached.holders import Holders
from invalidator.operate.event_log.doubt import Doubt, name_of
from invalidator.operate.event_log.entry import Entry
from invalidator.settings import Settings

#: The time in which a cluster announces an event, unless it cannot evict it.
WITHIN = timedelta(minutes=1)


class Evictions:
    """The announcements of a cluster, read in the order in which they were sent."""

    def __init__(self, settings: Settings, wanted: str, events: Iterable[Entry]) -> None:
        self._cluster = settings.cluster
        self._holders = Holders.of(settings)
        self._wanted = wanted
        self._events = {event.id: event for event in events if event.id}
        self._announced: set[str] = set()
        #: The event's keys that are still parked, by node. (A key is found by its name.)
        self._waiting: dict[str, set[str]] = {}
        self.doubt = Doubt()

    def among(self, deliveries: Iterable[Delivery]) -> Iterator[Entry]:
        """Yield an entry for each announcement of the key, or of one of the events."""
        for delivery in deliveries:
            at = published_at(delivery)
            try:
                announced = read_announcement(delivery.body)
            except PoisonError:
                self.doubt.cannot_read(at)
                continue
            self.doubt.read(announced, at)
            if not announced.is_heartbeat:
                yield from self._entries(announced, at)

    def never_announced(self, since: datetime, until: datetime) -> Iterator[Entry]:
        """Yield an entry for each event of which no announcement says anything, though it is over a minute old.

        ``since`` and ``until`` are the times between which announcements were read.
        """
        for event in self._events.values():
            at = event.at
            is_due = at and since <= at <= until - WITHIN
            if at and is_due and event.what == "event" and event.keys and event.id not in self._announced:
                detail = self.doubt.between(at, until) or (
                    "" if self.doubt.has_a_worker(until) else "no worker is running"
                )
                yield Entry(at + WITHIN, "not announced", event.type, event.id, cluster=self._cluster, detail=detail)

    def _entries(self, announced: Announcement, at: datetime | None) -> Iterator[Entry]:
        worker, cluster, node = name_of(announced.worker), announced.cluster, announced.drained
        if announced.everything:
            if self._wanted not in self._events or self._waiting.pop(node, set()):
                yield Entry(at, "emptied", by=worker, cluster=cluster, nodes=[node])
        elif node:
            if keys := self._drained(announced):
                yield Entry(at, "drained", by=worker, cluster=cluster, nodes=[node], keys=keys)
        elif keys := self._evicted(announced):
            nodes = self._parked(announced, keys)
            ids = ", ".join(self._answered(announced))
            what = "parked" if nodes else "healed" if announced.healed else "evicted"
            yield Entry(at, what, id=ids, by=worker, cluster=cluster, nodes=nodes, keys=keys)

    def _evicted(self, announced: Announcement) -> list[str]:
        """Return the key, or the event's keys; all keys if the event is not in the log, and so its own are unknown."""
        self._announced |= self._events.keys() & announced.events
        if self._wanted in announced.keys:
            return [self._wanted]
        if self._wanted not in announced.events:
            return []
        event = self._events.get(self._wanted)
        return [key for key in announced.keys if not event or key in event.keys]

    def _drained(self, announced: Announcement) -> list[str]:
        if self._wanted in announced.keys:
            return [self._wanted]
        waiting = self._waiting.get(announced.drained, set())
        keys = [key for key in announced.keys if key in waiting]
        waiting.difference_update(keys)
        return keys

    def _parked(self, announced: Announcement, keys: Collection[str]) -> list[str]:
        """Return the nodes for which these keys are parked. Others of the batch may be parked for more."""
        nodes = []
        for label in announced.parked:
            if held := {key for key in keys if label in self._holders.of_key(key.encode())}:
                nodes.append(label)
                self._waiting.setdefault(label, set()).update(held)
        return nodes

    def _answered(self, announced: Announcement) -> list[str]:
        """Return the ids of the events that it answers: those that the log knows, or the only one."""
        ids = announced.events
        return ids if len(ids) == 1 else [id for id in ids if id in self._events or id == self._wanted]
