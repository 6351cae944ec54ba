"""Drains parking queues: keys that were parked for a node are evicted there once it answers again.

    parking queue of a node ─> (the node answers) ─> keys ─> evict on that node (fence) ─> announce ─> ack

Rules of this file:

1. A debt is acknowledged only when its node confirmed its keys. Any worker that reaches the node drains its queue: the
   workers of a cluster compete for debts as they do for events.
2. Draining has a channel and a prefetch of its own, so that new events flow meanwhile.
3. A node that stops answering ends the draining, and the debts held go back to their queue.
4. A deleted parking queue is a gap. The worker declares it again where it may: without the queue nothing can be parked,
   and a batch that cannot be parked holds up all others.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Batch
from invalidator.broker.gap import Gap
from invalidator.broker.messages import read_debt
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, PoisonError
from invalidator.memcached.breaker import State
from invalidator.memcached.eviction import Answer, Evicted
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.worker.announcer import Announcer
from invalidator.worker.deferred import DeferredWork

#: Seconds between two inspections of a parking queue.
INSPECT_SECONDS = 1.0
#: Debt messages held at a time; each may hold a thousand keys.
PREFETCH = 200
#: Seconds without a further debt after which a queue counts as drained.
IDLE_SECONDS = 0.5

log = Log(__name__)


class Drainable(Protocol):
    """The nodes, one by one: `invalidator.memcached.cluster.Cluster`."""

    @property
    def labels(self) -> Sequence[str]: ...
    def states(self) -> Mapping[str, State]: ...
    async def evict_on(self, label: str, keys: Sequence[bytes]) -> Answer: ...
    async def flush(self, label: str) -> Answer: ...


class Drainer:
    """Drains the parking queues of all nodes that answer."""

    def __init__(
        self,
        session: Callable[[], Session | None],
        topology: Topology,
        nodes: Drainable,
        deferred: DeferredWork,
        announcer: Announcer,
        *,
        tag: str,
        declares: bool,
        on_gap: Callable[[Gap], None],
    ) -> None:
        #: The consuming session, while there is one: draining only reads and acknowledges, too.
        self._session = session
        self._topology = topology
        self._nodes = nodes
        self._deferred = deferred
        self._announcer = announcer
        self._tag = tag
        #: True if a missing parking queue is declared again, False if this worker waits for somebody to do so.
        self._declares = declares
        self._on_gap = on_gap
        #: When each parking queue that was seen was empty for the last time, None if it never was.
        self._empty_at: dict[str, datetime | None] = {}

    async def run(self) -> None:
        # No TaskGroup: it passes a cancellation on once, and it may have to be repeated (see `worker.end`).
        await asyncio.gather(*(self._keep_draining(label) for label in self._nodes.labels))

    async def _keep_draining(self, label: str) -> None:
        outage = Outage(log.warning, "draining stopped; will try again")
        while True:
            await asyncio.sleep(INSPECT_SECONDS)
            session = self._session()
            if session is None:
                continue
            try:
                debts = await self._debts(session, label)
                if debts and not self._nodes.states()[label].is_open:
                    await self._drain(session, label, debts)
                outage.ends()
            except InvalidatorError as error:
                outage.lasts(str(error), node=label)

    async def _debts(self, session: Session, label: str) -> int:
        """Return how many debts a node has. Report a gap if its queue was deleted, and its debts with it."""
        found = await session.inspect(self._topology.parked(label))
        if found is None:
            if label in self._empty_at:
                since = self._empty_at.pop(label)
                self._on_gap(Gap(since, datetime.now(UTC), f"the parking queue of {label} was deleted"))
            if self._declares:
                await session.declare(self._topology)
            return 0
        debts, _ = found
        self._empty_at[label] = self._empty_at.get(label) if debts else datetime.now(UTC)
        metrics.DEBTS.labels(label).set(debts)
        if not debts:
            self._deferred.drained(label)
        return debts

    async def _drain(self, session: Session, label: str, debts: int) -> None:
        log.info("draining a node's parking queue", node=label, debts=debts)
        queue = self._topology.parked(label)
        subscription = await session.subscribe(queue, tag=f"{self._tag}.{label}", prefetch=PREFETCH)
        try:
            drained = 0
            while batch := await subscription.batch_within(IDLE_SECONDS, PREFETCH):
                keys = await self._settle(label, batch)
                if keys is None:
                    log.warning("the node stopped answering; its debts stay parked", node=label)
                    return
                drained += keys
            log.info("drained", node=label, keys=drained)
        finally:
            await subscription.close()

    async def _settle(self, label: str, batch: Batch) -> int | None:
        """Evict a batch of debts and acknowledge it.

        Returns the number of keys, or None if the node did not confirm them all, and nothing was acknowledged.
        """
        keys: dict[str, None] = {}
        flush = False
        for delivery in batch.deliveries:
            try:
                debt = read_debt(delivery.body)
            except PoisonError as error:
                await self._deferred.dead_letter(delivery, error)
            else:
                flush = flush or debt.flush
                keys |= dict.fromkeys(debt.keys)
        answers = [await self._nodes.flush(label)] if flush else []
        answers += [await self._nodes.evict_on(label, [key.encode() for key in keys])] if keys else []
        if not all(isinstance(answer, Evicted) for answer in answers):
            return None
        if flush:
            log.warning("flushed the node: more than worker.parked_limit keys were parked for it", node=label)
            self._announcer.announce_everything(label)
        metrics.DRAINED.labels(label).inc(len(keys))
        self._announcer.announce(tuple(keys), drained=label)
        await batch.subscription.settle(batch)
        return len(keys)
