"""The events of the log as batches for a pipeline: from the beginning of its subscription to a mark, at a limited rate.

A stream is read, not emptied. Settling a batch only lets the broker send more.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Batch, Subscription
from invalidator.broker.event_log import FIRST_SECONDS, PREFETCH, Hole, events_before, offset_in
from invalidator.broker.wire.delivery import Delivery

#: Batches a second at the limit of the rate, so that new events are never held up for long.
BATCHES_PER_SECOND = 50


class LogIntake:
    """A pipeline's intake that ends at a mark."""

    def __init__(self, *, mark: str, rate: int, batch_events: int, is_wanted: Callable[[Delivery], bool]) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        #: Events handed out so far.
        self.events = 0
        #: Times in which the log may have missed events.
        self.holes: list[Hole] = []
        #: The offset at which reading began, None before that.
        self.first: int | None = None
        #: Why not all events were read and settled, None as long as nothing failed.
        self.failure: str | None = None
        self._mark = mark
        self._rate = rate
        self._batch_events = min(batch_events, max(1, rate // BATCHES_PER_SECOND))
        self._is_wanted = is_wanted
        self._subscription: Subscription | None = None
        self._is_at_the_mark = False
        #: Each batch as it was received, by the batch without marks that was handed out.
        self._received: dict[Batch, Batch] = {}
        self._wakeup = asyncio.Event()
        #: When the next batch may be taken.
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, session: Session, queue: str, arguments: dict[str, Any]) -> None:
        """Begin to receive; return once the first event is there. Raises as `Session.subscribe`."""
        self._subscription = await session.subscribe(
            queue, tag="healing", prefetch=PREFETCH, arguments=arguments, on_ready=self._notify
        )
        if first := await self._subscription.first_within(FIRST_SECONDS):
            self.first = offset_in(first.header)

    def take(self) -> Batch | None:
        """Return the next events, None if nothing has come, or the rate does not allow more yet."""
        loop = asyncio.get_running_loop()
        if self._is_over or self._subscription is None:
            return None
        if (wait := self._due - loop.time()) > 0:
            self._timer = self._timer or loop.call_later(wait, self._is_due)
            return None
        if (received := self._subscription.take(self._batch_events)) is None:
            return None
        self._due = loop.time() + len(received.deliveries) / self._rate
        events, holes, self._is_at_the_mark = events_before(self._mark, received.deliveries)
        self.holes += holes
        batch = Batch(list(filter(self._is_wanted, events)), received.subscription, received.bytes)
        self._received[batch] = received
        self.events += len(batch.deliveries)
        if self._is_at_the_mark:
            self._wakeup.set()
        return batch

    async def hand_out(self) -> None:
        """Call `on_ready` until the mark was met, or reading failed."""
        while not self._is_over:
            self._wakeup.clear()
            self.on_ready()
            if not self._is_over:
                await self._wakeup.wait()

    async def settle(self, batch: Batch) -> None:
        received = self._received.pop(batch)
        await received.subscription.settle(received)

    async def refuse(self, batch: Batch, delivery: Delivery) -> None:
        """Fail: a stream cannot dead-letter a message, so the events are to be read again."""
        self._fail("a dead letter cannot be stored")

    @property
    def _is_over(self) -> bool:
        return self._is_at_the_mark or self.failure is not None

    def _notify(self) -> None:
        if self._subscription and self._subscription.ended.done():
            self._fail(self._subscription.ended.result())
        self._wakeup.set()

    def _is_due(self) -> None:
        self._timer = None
        self._wakeup.set()

    def _fail(self, reason: str) -> None:
        if not self._is_at_the_mark:
            self.failure = self.failure or reason
        self._wakeup.set()
