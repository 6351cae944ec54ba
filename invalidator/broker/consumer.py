"""Keeps one subscription to the cluster's queue alive, and says when events may have been missed.

    connect ─> is the queue there? ─> declare ─> consume ─> watch ─> (lost, cancelled, gone) ─> pause ─> connect …

Rules of this file:

1. Whatever ends a session, the next one starts from nothing: connection, queue, consumer. There is no second path.
2. A queue that was missing, or a consumer that the broker cancelled, is a *gap*: events may have been published while
   nothing stored them. It is reported once, when the queue is back, from when to when.
3. Giving up is for what no waiting fixes: the broker says no, or everything answers and still no consumer lasts.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from invalidator.broker.address import connection_name
from invalidator.broker.connection import close, connect, pause
from invalidator.broker.declare import QueueInspector, declare
from invalidator.broker.delivery import Delivery
from invalidator.broker.subscription import Batch, Subscription
from invalidator.broker.tap import Tapping
from invalidator.broker.timestamp import age
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, RefusedError, UnreachableError
from invalidator.runtime import metrics
from invalidator.settings import BrokerSettings

#: Seconds between two looks at whether the consumer is still there.
WATCH_SECONDS = 3.0
#: Refusals in a row, after the first connection, that are taken for good.
REFUSALS = 5
#: Sessions in a row, with broker and queue answering, that brought no consumer that lasted.
REBUILDS = 5
#: Seconds between two events whose age is noted, at the least.
AGE_SECONDS = 0.01
#: The consumer's argument that tells of the last gap, for whoever looks at the queue in the management UI.
GAP_ARGUMENT = "x-invalidator-gap"
GAP_SINCE_UNKNOWN = "since unknown"

log = structlog.get_logger()


@dataclass(frozen=True)
class Gap:
    """A time in which events may have been published without being stored; ``since`` None: nobody knows since when."""

    since: datetime | None
    until: datetime
    reason: str

    def __str__(self) -> str:
        since = f"since {self.since:%Y-%m-%dT%H:%M:%SZ}" if self.since else GAP_SINCE_UNKNOWN
        return f"{since} until {self.until:%Y-%m-%dT%H:%M:%SZ}: {self.reason}"


class Consumer:
    """The worker's intake: batches from the cluster's queue, across every loss of connection."""

    def __init__(
        self,
        broker: Callable[[], BrokerSettings],
        topology: Topology,
        *,
        tag: str,
        batch_events: int = 1000,
        buffer_bytes: int = 64 * 1024 * 1024,
        properties: dict[str, Any] | None = None,
        on_gap: Callable[[Gap], None],
    ) -> None:
        #: Asked again before every connection, so that a changed password is read again.
        self._broker = broker
        self._topology = topology
        self._tag = tag
        self._batch_events = batch_events
        self._buffer_bytes = buffer_bytes
        self._properties = properties
        self._on_gap = on_gap
        #: Those that may still hand out batches; the last one is the current one.
        self._subscriptions: deque[Subscription] = deque()
        self._current: Subscription | None = None
        #: Who takes what gathers.
        self._on_ready: Callable[[], None] = _nobody
        #: Set when a subscription has come or is over, or on `stop`.
        self._news = asyncio.Event()
        self._stopping = False
        self._age_noted = 0.0
        self._last_consuming: datetime | None = None
        self._gap: str | None = None
        self._last_gap: Gap | None = None
        #: Looks in a row that found the consumer gone from a queue that was there.
        self._rebuilds = 0
        #: Looks at queues through the consuming connection, while there is one; also for others who publish nothing.
        self.inspector: QueueInspector | None = None
        #: In words, for the status line: "consuming", or what it waits for.
        self.state = "starting"
        #: Set once the broker has been tried, whatever came of it but a refusal.
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
                reason = await self._session()
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

    def take(self) -> Batch | None:
        """What has gathered, as a batch, the oldest subscription's first; None if nothing has."""
        while self._subscriptions:
            if batch := self._subscriptions[0].take(self._batch_events):
                return batch
            if not self._subscriptions[0].is_over:
                return None
            self._subscriptions.popleft()
            self._news.set()
        return None

    async def hand_out(self, on_ready: Callable[[], None]) -> None:
        """Call ``on_ready`` whenever there may be something to `take`; return when there never will be again."""
        self._on_ready = on_ready
        try:
            while self._subscriptions or not self._stopping:
                self._news.clear()
                on_ready()
                await self._news.wait()
        finally:
            self._on_ready = _nobody

    async def settle(self, batch: Batch) -> None:
        """Acknowledge a batch; one whose connection is gone is the broker's again, and is left to it."""
        try:
            await batch.subscription.settle(batch)
        except UnreachableError as error:
            log.info("could not acknowledge; the broker will deliver again", reason=str(error))
        else:
            self._note_age(batch)

    async def refuse(self, batch: Batch, delivery: Delivery) -> None:
        """Hand a delivery to the dead-letter queue through the consuming connection."""
        try:
            await batch.subscription.refuse(batch, delivery)
        except UnreachableError as error:
            log.info("could not reject; the broker will deliver again", reason=str(error))

    @property
    def is_consuming(self) -> bool:
        return self.state == "consuming"

    async def stop(self) -> None:
        """Let no more deliveries come; what is held can still be settled until `close`."""
        self._stopping = True
        self.state = "stopping"
        self._news.set()
        if self._current:
            try:
                await self._current.cancel()
            except (UnreachableError, RefusedError):
                self._current.end("the broker was lost while stopping")

    def close(self) -> None:
        """Give back what was not settled, by closing the connection, and let `run` end."""
        self._stopping = True
        self._news.set()
        if self._current:
            self._current.end("closed")

    def _note_age(self, batch: Batch) -> None:
        """Of the batch's first, which has waited longest; all its properties are read for that, so not too often."""
        now = time.time()
        if abs(now - self._age_noted) < AGE_SECONDS:
            return
        self._age_noted = now
        if (seconds := age(batch.deliveries[0].properties, now)) is not None:
            metrics.EVENT_AGE.observe(seconds)

    async def _session(self) -> str:
        """One connection from dialling to its loss; returns why it ended."""
        self.state = "connecting"
        broker = self._broker()
        tapping = Tapping() if broker.consumer == "tap" else None
        connection = await connect(
            broker,
            name=connection_name("worker", self._topology.cluster, "consumes"),
            properties=self._properties,
            transport_factory=tapping,
        )
        try:
            inspector = QueueInspector(connection, tapping.protocol if tapping else None)
            await self._find_queue(inspector, broker)
            subscription = await self._subscribe(inspector, broker)
            self.inspector = inspector
            return await self._watch(inspector, subscription)
        finally:
            self.inspector = None
            await close(connection)

    async def _find_queue(self, inspector: QueueInspector, broker: BrokerSettings) -> None:
        queue = self._topology.queue
        if await inspector.inspect(queue) is None:
            self._open_gap("the queue was not there")
            if broker.declare == "passive":
                raise UnreachableError(f'there is no queue "{queue}"; to make it: invalidator topology declare')
        if broker.declare == "active":
            await declare(inspector.connection, self._topology)

    async def _subscribe(self, inspector: QueueInspector, broker: BrokerSettings) -> Subscription:
        if self._rebuilds > REBUILDS:
            raise InvalidatorError(
                f'broker and queue "{self._topology.queue}" answer, but {REBUILDS} new consumers in a row were gone at '
                "the next look; look for a policy or an operator that takes them away"
            )
        if gap := self._gap and Gap(self._last_consuming, datetime.now(UTC), self._gap):
            self._last_gap = gap
        subscription = await Subscription.open(
            inspector.connection,
            self._topology.queue,
            tag=self._tag,
            prefetch=broker.prefetch,
            tapped=inspector.tapped,
            buffer_bytes=self._buffer_bytes,
            arguments={GAP_ARGUMENT: str(self._last_gap)} if self._last_gap else None,
            on_ready=self._tell,
        )
        if self._stopping:  # meanwhile: `close` found nothing to end
            subscription.end("closed")
        self._current = subscription
        self._subscriptions.append(subscription)
        self._news.set()
        self.state = "consuming"
        self.tried.set()
        log.info("consuming", queue=self._topology.queue, prefetch=broker.prefetch)
        if gap:
            self._gap = None
            self._on_gap(gap)
        return subscription

    async def _watch(self, inspector: QueueInspector, subscription: Subscription) -> str:
        """Until the subscription ends, or is found to be no more; returns why."""
        received = -1
        look: asyncio.Task[tuple[int, int] | None] | None = None
        while not subscription.ended.done():
            self._last_consuming = datetime.now(UTC)
            await asyncio.wait([subscription.ended], timeout=WATCH_SECONDS)
            if subscription.ended.done() or self._stopping:
                continue
            look = look or asyncio.create_task(inspector.inspect(subscription.queue))
            await asyncio.wait({look}, timeout=WATCH_SECONDS)
            if not look.done():
                continue  # the heartbeat is the judge of a broker that does not answer
            if lost := _missing(look, subscription, idle=received == subscription.received):
                subscription.end(lost)
            self._rebuilds = self._rebuilds + 1 if lost and not subscription.cancelled_by_broker else 0
            look, received = None, subscription.received
        if look:
            look.add_done_callback(lambda look: look.cancelled() or look.exception())  # it ends with the connection
        if subscription.cancelled_by_broker:
            self._open_gap(subscription.ended.result())
        return subscription.ended.result()

    async def _back_off(self, reason: str) -> None:
        seconds = pause()
        metrics.RECONNECTS.inc()
        self.state = f"waiting for the broker: {reason}"
        log.warning("not consuming; will try again", reason=reason, seconds=round(seconds, 1))
        await asyncio.sleep(seconds)

    def _tell(self) -> None:
        self._on_ready()

    def _open_gap(self, reason: str) -> None:
        self._gap = self._gap or reason


def _nobody() -> None:
    pass


def _missing(look: "asyncio.Task[tuple[int, int] | None]", subscription: Subscription, *, idle: bool) -> str | None:
    """What is wrong with a consumer, going by a look at its queue."""
    if look.exception():
        return None  # the connection is closing, which ends the subscription anyway
    seen = look.result()
    if seen is None:
        subscription.cancelled_by_broker = True
        return "the queue is gone"
    ready, consumers = seen
    metrics.BACKLOG.set(ready)
    if consumers == 0:
        return "the broker knows of no consumer"
    if ready and idle and not subscription.held:
        return f"{ready} messages wait in the queue and none is delivered"
    return None
