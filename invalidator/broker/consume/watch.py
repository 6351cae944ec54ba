"""The watch over a consumer: RabbitMQ can forget one without a word, or stop delivering to it."""

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Subscription
from invalidator.broker.wire.delivery import Delivery
from invalidator.broker.wire.timestamp import published_at
from invalidator.errors import InvalidatorError
from invalidator.runtime import metrics

#: Seconds between two checks that the consumer is still there.
WATCH_SECONDS = 3.0
#: The same while messages may wait in the queue: a purge is seen if more of them are gone than were published since the
#: last check.
BACKLOG_SECONDS = 0.5
#: Sessions in a row, with broker and queue answering, that brought no consumer that lasted.
REBUILDS = 5
#: Seconds within which a delivery arrives that the broker has sent.
IN_FLIGHT_SECONDS = 0.2

#: A queue's (messages ready, consumers), None if there is no such queue.
Inspected = tuple[int, int] | None


class Watch:
    """Inspects the queue of a subscription every few seconds, and ends the subscription if its consumer is lost."""

    def __init__(
        self,
        *,
        on_consuming: Callable[[], None],
        on_settled: Callable[[datetime | None, bool], None] = lambda *_: None,
        on_purged: Callable[[str], None] = lambda _: None,
    ) -> None:
        #: Called at the beginning and before every check, as long as the subscription lives.
        self._on_consuming = on_consuming
        #: Called after a check with the time before which everything received is settled, if it is known, and True if
        #: that holds for the whole cluster.
        self._on_settled = on_settled
        #: Called with the reason when messages have vanished from the queue.
        self._on_purged = on_purged
        #: Checks in a row that found the consumer gone from a queue that was there.
        self._rebuilds = 0
        #: Checks that were judged so far.
        self.checks = 0

    def assert_consumers_last(self, queue: str) -> None:
        """Raise InvalidatorError if too many consumers in a row were lost: waiting does not fix that."""
        if self._rebuilds > REBUILDS:
            raise InvalidatorError(
                f'broker and queue "{queue}" answer, but {REBUILDS} new consumers in a row were gone at the next '
                "check; find the policy or the operator that removes them"
            )

    async def until_the_end(self, session: Session, subscription: Subscription) -> str:
        """Return why the subscription has ended, once it has."""
        check: asyncio.Task[Inspected] | None = None
        backlog, pace = Backlog(), Pace()
        while not subscription.ended.done():
            self._on_consuming()
            await asyncio.wait([subscription.ended], timeout=BACKLOG_SECONDS)
            if subscription.ended.done() or subscription.is_cancelling:
                continue
            if check is None:
                if not pace.is_due(may_wait=bool(backlog.ready) or subscription.is_full):
                    continue
                begun = Begun(datetime.now(UTC), subscription.received, subscription.oldest)
                check = asyncio.create_task(session.inspect(subscription.queue))
            await asyncio.wait({check}, timeout=WATCH_SECONDS)
            if not check.done():
                continue  # the heartbeat decides whether a broker that does not answer is lost
            if check.exception():
                self._rebuilds = 0  # the connection is closing, which ends the subscription anyway
            else:
                inspected = check.result()
                self.checks += 1
                self._judge(inspected, subscription, idle=pace.is_idle(subscription.received))
                if inspected and not subscription.ended.done():
                    await self._see(inspected, subscription, begun, backlog)
            check = None
        if check:
            check.add_done_callback(lambda check: check.cancelled() or check.exception())  # it ends with the connection
        return subscription.ended.result()

    async def _see(
        self, inspected: tuple[int, int], subscription: Subscription, begun: "Begun", backlog: "Backlog"
    ) -> None:
        """Report how far everything is settled, or that the queue was purged."""
        ready, consumers = inspected
        if backlog.ready:  # deliveries may be on their way that are not ready any more
            await asyncio.wait([subscription.ended], timeout=IN_FLIGHT_SECONDS)
        if lost := backlog.lost(ready, begun.received, subscription.received, alone=consumers == 1):
            self._on_purged(f"{lost} messages vanished from the queue: it was purged")
        elif not (ready or subscription.held):
            self._on_settled(begun.at, consumers == 1)
        elif begun.oldest:
            self._on_settled(published_at(begun.oldest), False)

    def _judge(self, inspected: Inspected, subscription: Subscription, *, idle: bool) -> None:
        """End a subscription whose queue or consumer is gone, or which gets nothing of what waits."""
        if inspected is None:
            self._rebuilds = 0
            subscription.end_without_queue("the queue is gone")
            return
        ready, consumers = inspected
        metrics.BACKLOG.set(ready)
        lost = None
        if consumers == 0:
            lost = "the broker does not know the consumer any more"
        elif ready and idle and not subscription.held:
            lost = f"{ready} messages wait in the queue and none is delivered"
        self._rebuilds = self._rebuilds + 1 if lost else 0
        if lost:
            subscription.end(lost)


class Begun(NamedTuple):
    """The beginning of a check. What comes after it may be newer than a message that was purged meanwhile."""

    at: datetime
    #: Deliveries received so far.
    received: int
    #: The delivery that was held longest.
    oldest: Delivery | None


class Pace:
    """The times of the checks: when the next one is due, and since when nothing has come."""

    def __init__(self) -> None:
        self._checked = self._moved = -math.inf
        self._received = -1

    def is_due(self, *, may_wait: bool) -> bool:
        """Return True if a check is to begin; ``may_wait`` if messages may wait in the queue."""
        now = asyncio.get_running_loop().time()
        if not may_wait and now - self._checked < WATCH_SECONDS - BACKLOG_SECONDS / 2:
            return False
        self._checked = now
        return True

    def is_idle(self, received: int) -> bool:
        """Return True if nothing was received since the checks of the last seconds."""
        now = asyncio.get_running_loop().time()
        if received != self._received:
            self._received, self._moved = received, now
        return now - self._moved >= WATCH_SECONDS


class Backlog:
    """The messages that waited at the last check; if they are neither received nor there, they were purged.

    With several consumers it is not known what the others received, so nothing is said.
    """

    def __init__(self) -> None:
        self.ready = self._received = 0

    def lost(self, ready: int, received_before: int, received: int, *, alone: bool) -> int:
        """Return the number of messages that vanished since the last check."""
        lost = self.ready - ready - (received - self._received) if alone else 0
        self.ready, self._received = ready if alone else 0, received_before
        return max(lost, 0)
