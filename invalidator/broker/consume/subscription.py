"""One consumer on one channel: deliveries gather, leave as batches, and are settled on the channel that brought them.

Rules of this file:

1. A delivery tag means nothing outside its channel: once the channel is gone, settling its batches is a no-op, and the
   broker delivers them again. Therefore what had only gathered is forgotten. Except when the queue was deleted: those
   deliveries are not repeated, so they still leave as batches.
2. Batches are settled in the order they left. An acknowledgement with ``multiple`` goes out only when every delivery at
   or below its tag is done, and never for a tag with nothing outstanding at or below it: that closes the channel.
3. Cancelling a consumer acknowledges nothing: what is held still has to be settled.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage
from pamqp import commands

from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.declare import major_version
from invalidator.broker.wire.delivery import Delivery, received
from invalidator.broker.wire.transport import TappedProtocol

#: Soft limit on the bytes of bodies in a batch. Smaller batches of large messages are faster and use less memory: their
#: keys stay in the processor's caches from one step to the next.
BATCH_BYTES = 512 * 1024
#: Bytes of bodies that a subscription holds before it stops reading.
BUFFER_BYTES = 64 * 1024 * 1024
#: Below this major version, when a queue is deleted and immediately declared again, RabbitMQ subscribes its consumers
#: to the new queue, forgets them and sends no notice: their deliveries reach nobody. Quorum queues accept no consumer
#: on a channel with a global prefetch, so there RabbitMQ must cancel them instead.
CANCELS_ON_DELETION = 4


@dataclass(slots=True, eq=False)
class Batch:
    """Deliveries with consecutive tags, and the state of their settlement."""

    deliveries: list[Delivery]
    subscription: "Subscription"
    #: The size of the bodies.
    bytes: int
    settled: bool = False
    #: Tags that were refused one by one, and must not be acknowledged.
    refused: set[int] = field(default_factory=set)

    @property
    def last_to_acknowledge(self) -> int | None:
        last = (delivery.tag for delivery in reversed(self.deliveries) if delivery.tag not in self.refused)
        return next(last, None)


class Subscription:
    """One consumer and the deliveries it holds; it ends once, for a reason, and is then replaced, never repaired."""

    def __init__(
        self,
        channel: RawChannel,
        queue: str,
        tag: str,
        *,
        tapped: TappedProtocol | None,
        buffer_bytes: int,
        prefetch: int = 0,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.queue = queue
        self.tag = tag
        #: Deliveries that the broker sends before it waits for an acknowledgement.
        self.prefetch = prefetch
        #: Done, with the reason, when no more deliveries can come.
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        #: True if the queue is gone, or was for a moment.
        self.lost_its_queue = False
        #: True as soon as `cancel` has been called; the broker may not have confirmed it yet.
        self.is_cancelling = False
        #: Deliveries received so far.
        self.received = 0
        self._channel = channel
        self._tapped = tapped
        self._buffer_bytes = buffer_bytes
        #: Bytes of bodies, gathered and out in batches.
        self._held_bytes = 0
        self._gathered: list[Delivery] = []
        self._gathered_bytes = 0
        self._outstanding: deque[Batch] = deque()
        self._on_ready = on_ready
        self._ready = asyncio.Event()
        self._cancelled = False

    @classmethod
    async def open(
        cls,
        connection: Connection,
        queue: str,
        *,
        tag: str,
        prefetch: int,
        tapped: TappedProtocol | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        arguments: dict[str, Any] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> "Subscription":
        """Consume from a queue; with ``tapped``, the connection's own protocol, straight from its frames.

        ``on_ready`` is called as soon as there is something to `take`, and when there never will be again.

        Raises:
            RefusedError: this user may not read the queue.
            UnreachableError: the queue, or the connection, is gone.
        """
        async with in_our_words(f'consuming from "{queue}"'):
            channel = await raw_channel(connection)
            subscription = cls(
                channel, queue, tag, tapped=tapped, buffer_bytes=buffer_bytes, prefetch=prefetch, on_ready=on_ready
            )
            channel.closing.add_done_callback(subscription._channel_closed)
            channel.on_consumer_cancel_callbacks.add(subscription._consumer_cancelled)
            await channel.basic_qos(prefetch_count=prefetch)
            if tapped:
                tapped.tap.watch(channel.number, tag, subscription._gather)
            await channel.basic_consume(queue, subscription._decoded, consumer_tag=tag, arguments=arguments)
            if major_version(connection) < CANCELS_ON_DELETION:
                await channel.basic_qos(prefetch_count=65535, global_=True)
            return subscription

    @property
    def held(self) -> int:
        """The number of deliveries that are gathered or out in batches."""
        return len(self._gathered) + sum(len(batch.deliveries) for batch in self._outstanding)

    @property
    def is_full(self) -> bool:
        """True if the broker sends no more for now, so that messages may wait in the queue."""
        return 0 < self.prefetch <= self.held

    @property
    def oldest(self) -> Delivery | None:
        """The delivery that is held longest."""
        if self._outstanding:
            return self._outstanding[0].deliveries[0]
        return self._gathered[0] if self._gathered else None

    def take(self, limit: int) -> Batch | None:
        """Return what has gathered, at most ``limit`` events and about BATCH_BYTES, as a batch; None if nothing has."""
        if not self._gathered:
            return None
        if self._gathered_bytes > BATCH_BYTES:
            limit = min(limit, len(self._gathered) * BATCH_BYTES // self._gathered_bytes or 1)
        taken, self._gathered = self._gathered[:limit], self._gathered[limit:]
        batch = Batch(taken, self, _bytes(taken) if self._gathered else self._gathered_bytes)
        self._gathered_bytes -= batch.bytes
        self._outstanding.append(batch)
        return batch

    @property
    def is_over(self) -> bool:
        """True when nothing more will gather."""
        return self.ended.done() or self._cancelled

    async def batch(self, limit: int) -> Batch | None:
        """Return what has gathered, as soon as there is something; None when nothing more can come."""
        while not self._gathered and not self.is_over:
            self._ready.clear()
            await self._ready.wait()
        return self.take(limit)

    async def first_within(self, seconds: float) -> Delivery | None:
        """Return the first delivery as soon as one has gathered, and leave it there; None if none comes in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._gathered and not self.is_over:
                    self._ready.clear()
                    await self._ready.wait()
        return self._gathered[0] if self._gathered else None

    async def batch_within(self, seconds: float, limit: int) -> Batch | None:
        """Return what `batch` does, but None also when nothing comes within ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                return await self.batch(limit)
        except TimeoutError:
            return None

    async def settle(self, batch: Batch) -> None:
        """Acknowledge a batch, and with it every settled batch that had to wait for it."""
        batch.settled = True
        tag = None
        while self._outstanding and self._outstanding[0].settled:
            settled = self._outstanding.popleft()
            self._let_go(settled.bytes)
            tag = settled.last_to_acknowledge or tag
        if tag is None or self._channel.is_closed:
            return
        if self._tapped:
            self._tapped.send(self._channel.number, commands.Basic.Ack(tag, multiple=True))
            return
        async with in_our_words(f'acknowledging on "{self.queue}"'):
            await self._channel.basic_ack(tag, multiple=True, wait=False)

    async def refuse(self, batch: Batch, delivery: Delivery) -> None:
        """Reject one delivery, so that the broker moves it to the queue's dead-letter exchange; publish nothing."""
        batch.refused.add(delivery.tag)
        if self._channel.is_closed:
            return
        if self._tapped:
            self._tapped.send(self._channel.number, commands.Basic.Reject(delivery.tag, requeue=False))
            return
        async with in_our_words(f'rejecting a message of "{self.queue}"'):
            await self._channel.basic_reject(delivery.tag, requeue=False, wait=False)

    async def cancel(self) -> None:
        """Stop further deliveries; those held can still be settled."""
        self.is_cancelling = True
        if not (self._cancelled or self.ended.done()):
            async with in_our_words(f'cancelling the consumer of "{self.queue}"'):
                await self._channel.basic_cancel(self.tag)
            self._cancelled = True
            self._notify()

    async def close(self) -> None:
        """Close the channel, which gives everything unsettled back to the broker."""
        async with in_our_words(f'closing the channel of "{self.queue}"'):
            await self._channel.close()

    def end(self, reason: str) -> None:
        """Declare the subscription over: no more deliveries can come. The first reason stays."""
        if not self.ended.done():
            self.ended.set_result(reason)
        self._notify()

    def end_without_queue(self, reason: str) -> None:
        """End because the queue is gone, so that events may have been missed."""
        self.lost_its_queue = True
        self.end(reason)

    async def _decoded(self, message: DeliveredMessage) -> None:
        self._gather([received(message)])

    def _gather(self, deliveries: Sequence[Delivery]) -> None:
        size = _bytes(deliveries)
        self.received += len(deliveries)
        self._gathered += deliveries
        self._gathered_bytes += size
        self._held_bytes += size
        if self._tapped and self._held_bytes > self._buffer_bytes:
            self._tapped.pause()
        self._notify()

    def _notify(self) -> None:
        self._ready.set()
        if self._on_ready:
            self._on_ready()

    def _let_go(self, size: int) -> None:
        self._held_bytes -= size
        if self._tapped and self._held_bytes <= self._buffer_bytes:
            self._tapped.resume()

    def _channel_closed(self, closing: "asyncio.Future[Any]") -> None:
        error = None if closing.cancelled() else closing.exception()
        if self._tapped:
            self._tapped.tap.unwatch(self._channel.number, self._gather)
        if not self.lost_its_queue:
            self._let_go(self._gathered_bytes)
            self._gathered, self._gathered_bytes = [], 0
        self.end(f"the channel was closed: {error}" if error else "the channel was closed")

    def _consumer_cancelled(self, _: commands.Basic.Cancel) -> None:
        self.end_without_queue("the broker cancelled the consumer: its queue was deleted")


def _bytes(deliveries: Sequence[Delivery]) -> int:
    return sum([len(delivery.body) for delivery in deliveries])
