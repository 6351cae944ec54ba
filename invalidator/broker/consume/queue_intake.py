"""The batches of a cluster's queue, over all connections: what one of them brought can be settled on that one only."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from invalidator.broker.consume.subscription import Batch, Subscription
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import age
from invalidator.errors import UnreachableError
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log

#: Shortest time in seconds between two events whose age is recorded.
AGE_SECONDS = 0.01

log = Log(__name__)


class QueueIntake:
    """A pipeline's intake: what the subscriptions to a queue hold, one subscription after another."""

    def __init__(self, batch_events: int) -> None:
        #: Called when there may be something to `take`; set once, before the first subscription.
        self.on_ready: Callable[[], None] = lambda: None
        self._batch_events = batch_events
        #: Subscriptions that may still hand out batches.
        self._subscriptions: deque[Subscription] = deque()
        #: Set when a subscription was added or is over, and by `end`.
        self._wakeup = asyncio.Event()
        #: True if no subscription will follow.
        self._is_ending = False
        self._age_recorded = 0.0

    def add(self, subscription: Subscription) -> None:
        """Take from this subscription, too, once those before it are over."""
        self._subscriptions.append(subscription)
        self._wakeup.set()

    def end(self) -> None:
        """Let `hand_out` return once the subscriptions are over."""
        self._is_ending = True
        self._wakeup.set()

    def take(self) -> Batch | None:
        """Return what has gathered, the oldest subscription's first, as a batch; None if nothing has."""
        while self._subscriptions:
            if batch := self._subscriptions[0].take(self._batch_events):
                return batch
            if not self._subscriptions[0].is_over:
                return None
            self._subscriptions.popleft()
            self._wakeup.set()
        return None

    async def hand_out(self) -> None:
        """Call `on_ready` when subscriptions come and go; return when there will never be anything to `take` again."""
        while self._subscriptions or not self._is_ending:
            self._wakeup.clear()
            self.on_ready()
            await self._wakeup.wait()

    async def settle(self, batch: Batch) -> None:
        """Acknowledge a batch; if its connection is gone, leave it to the broker, which delivers it again."""
        try:
            await batch.subscription.settle(batch)
        except UnreachableError as error:
            log.info("could not acknowledge; the broker will deliver again", reason=str(error))
        else:
            self._record_age(batch)

    async def refuse(self, batch: Batch, delivery: Delivery) -> None:
        """Hand a delivery to the dead-letter queue through the consuming connection."""
        try:
            await batch.subscription.refuse(batch, delivery)
        except UnreachableError as error:
            log.info("could not reject; the broker will deliver again", reason=str(error))

    def _record_age(self, batch: Batch) -> None:
        """Record the age of the batch's first event, the oldest; not of every batch, as it decodes all properties."""
        now = time.time()
        if abs(now - self._age_recorded) < AGE_SECONDS:
            return
        self._age_recorded = now
        if (seconds := age(batch.deliveries[0].properties, now)) is not None:
            metrics.EVENT_AGE.observe(seconds)
