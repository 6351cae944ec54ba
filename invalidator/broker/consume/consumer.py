"""The consumer of a cluster's queue, kept alive across every loss of connection; it reports when events may be missed.

    connect ─> is the queue there? ─> declare ─> consume ─> watch ─> (lost, cancelled, gone) ─> pause ─> connect …
                                                    └─> queue_intake.py: batches, over all connections

Rules of this file:

1. Whatever ends a session, the next one starts from nothing: connection, queue, consumer. There is no second path.
2. A queue that was deleted, or a consumer that the broker cancelled, is a *gap*: events may have been published while
   nothing stored them. It is reported once, when the queue is back, from when to when. A queue that was never declared,
   at a cluster's first start, has lost nothing.
3. The consumer gives up only what no waiting fixes: the broker says no, or everything answers and still no consumer
   lasts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from invalidator.broker.address import connection_name
from invalidator.broker.connection import pause
from invalidator.broker.consume.finder import QueueFinder
from invalidator.broker.consume.queue_intake import QueueIntake
from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import BUFFER_BYTES, Subscription
from invalidator.broker.consume.watch import Watch
from invalidator.broker.gap import Gap, GapTracker
from invalidator.broker.topology import Topology
from invalidator.errors import RefusedError, UnreachableError
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import BrokerSettings

#: Refusals in a row, after the first connection, that are final.
REFUSALS = 5
#: Client property by which `invalidator check` finds the one connection of each worker that consumes.
ROLE = {"role": "consumer"}

log = Log(__name__)


class Phase(Enum):
    """The consumer's phases, in the words of the status line."""

    STARTING = "starting"
    CONNECTING = "connecting"
    CONSUMING = "consuming"
    WAITING = "waiting for the broker"
    STOPPING = "stopping"


class Consumer:
    """The worker's consumer, across every loss of connection. Its `intake` hands out what it receives."""

    def __init__(
        self,
        broker: Callable[[], BrokerSettings],
        topology: Topology,
        *,
        tag: str,
        batch_events: int = 1000,
        buffer_bytes: int = BUFFER_BYTES,
        properties: dict[str, Any] | None = None,
        on_gap: Callable[[Gap], None],
        store_gap: Callable[[Gap], Awaitable[None]],
    ) -> None:
        #: Called before every connection, so that a changed password is read again.
        self._broker = broker
        self._topology = topology
        self._tag = tag
        #: What a pipeline takes its batches from.
        self.intake = QueueIntake(batch_events)
        self._buffer_bytes = buffer_bytes
        self._properties = (properties or {}) | ROLE
        self._on_gap = on_gap
        self._current: Subscription | None = None
        self._phase = Phase.STARTING
        self._waits_because = ""
        self._outage = Outage(log.warning, "not consuming; will try again")
        self._stopping = False
        self._gaps = GapTracker()
        self._finder = QueueFinder(topology, self._gaps, store_gap)
        self._watch = Watch(
            on_consuming=self._gaps.consuming,
            on_settled=self._settled_until,
            on_purged=lambda reason: on_gap(self._gaps.passed(reason)),
        )
        #: When the last try began that found no broker, until the log says so.
        self._away_since: datetime | None = None
        #: True if no other worker consumed at the last check and nothing was left to do.
        self._is_everything = False
        #: The session that consumes, while there is one; others may read through it, but not publish.
        self.session: Session | None = None
        #: Set once the broker has been tried, unless it refused.
        self.tried = asyncio.Event()

    async def run(self) -> None:
        """Consume until `stop` and `close`.

        Raises:
            RefusedError: the broker says no: at once at the start, later after several tries.
            ConfigurationError: the queue exists with other arguments.
            InvalidatorError: broker and queue answer, and five rebuilds brought no consumer.
        """
        refusals = 0
        while not self._stopping:
            try:
                reason = await self._consume()
                refusals = 0
            except RefusedError as error:
                refusals += 1
                if not self.tried.is_set() or refusals >= REFUSALS:
                    raise
                reason = str(error)
            except UnreachableError as error:
                reason = str(error)
            self.tried.set()
            if not self._stopping:
                await self._back_off(reason)

    @property
    def is_consuming(self) -> bool:
        return self._phase is Phase.CONSUMING

    @property
    def state(self) -> str:
        """The phase in words, for the status line, with the reason for waiting."""
        return f"{self._phase.value}: {self._waits_because}" if self._phase is Phase.WAITING else self._phase.value

    @property
    def position(self) -> tuple[datetime | None, bool]:
        """The time before which all that came here is settled, and True if that holds for the whole cluster."""
        return self._gaps.position, self._is_everything

    @property
    def arrived(self) -> object:
        """A value that is another one after each arrival."""
        return self._current, self._current and self._current.received

    def _settled_until(self, position: datetime | None, is_everything: bool) -> None:
        self._gaps.advance(position)
        self._is_everything = is_everything

    async def stop(self) -> None:
        """Stop further deliveries; what is held can still be settled until `close`."""
        self._stopping = True
        self._phase = Phase.STOPPING
        self.intake.end()
        if self._current:
            try:
                await self._current.cancel()
            except (UnreachableError, RefusedError):
                self._current.end("the broker was lost while stopping")

    def close(self) -> None:
        """Give back what was not settled, by closing the connection, and let `run` end."""
        self._stopping = True
        self.intake.end()
        if self._current:
            self._current.end("closed")

    async def _consume(self) -> str:
        """Consume through one connection, from connecting to its loss; return why it ended."""
        self._phase = Phase.CONNECTING
        broker = self._broker()
        name, began = connection_name("worker", self._topology.cluster, "consumes"), datetime.now(UTC)
        try:
            session = await Session.open(broker, name=name, properties=self._properties)
        except UnreachableError:
            self._away_since = began
            raise
        session.missed_since = self._away_since
        try:
            await self._finder.find(session, broker)
            subscription = await self._subscribe(session, broker)
            self.session = session
            reason = await self._watch.until_the_end(session, subscription)
            if subscription.lost_its_queue:
                self._gaps.open(reason)
            return reason
        finally:
            self.session, self._away_since = None, session.missed_since
            await session.close()

    async def _subscribe(self, session: Session, broker: BrokerSettings) -> Subscription:
        self._watch.assert_consumers_last(self._topology.queue)
        subscription = await session.subscribe(
            self._topology.queue,
            tag=self._tag,
            prefetch=broker.prefetch,
            buffer_bytes=self._buffer_bytes,
            arguments=self._gaps.arguments(),
            on_ready=self.intake.on_ready,
        )
        if self._stopping:  # `close` was called meanwhile, and found nothing to end
            subscription.end("closed")
        self._current = subscription
        self.intake.add(subscription)
        self._phase = Phase.CONSUMING
        self.tried.set()
        self._outage.ends()
        log.info("consuming", queue=self._topology.queue, prefetch=broker.prefetch)
        if gap := self._gaps.close():
            self._on_gap(gap)
        return subscription

    async def _back_off(self, reason: str) -> None:
        metrics.RECONNECTS.inc()
        self._phase, self._waits_because = Phase.WAITING, reason
        self._outage.lasts(reason)
        await asyncio.sleep(pause())
