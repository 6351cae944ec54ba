"""The watch over a consumer: RabbitMQ can forget one without a word, or stop delivering to it."""

import asyncio
from collections.abc import Callable

from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Subscription
from invalidator.errors import InvalidatorError
from invalidator.runtime import metrics

#: Seconds between two checks that the consumer is still there.
WATCH_SECONDS = 3.0
#: Sessions in a row, with broker and queue answering, that brought no consumer that lasted.
REBUILDS = 5

#: A queue's (messages ready, consumers), None if there is no such queue.
Inspected = tuple[int, int] | None


class Watch:
    """Inspects the queue of a subscription every few seconds, and ends the subscription if its consumer is lost."""

    def __init__(self, *, on_consuming: Callable[[], None]) -> None:
        #: Called at the beginning and before every check, as long as the subscription lives.
        self._on_consuming = on_consuming
        #: Checks in a row that found the consumer gone from a queue that was there.
        self._rebuilds = 0

    def assert_consumers_last(self, queue: str) -> None:
        """Raise InvalidatorError if too many consumers in a row were lost: waiting does not fix that."""
        if self._rebuilds > REBUILDS:
            raise InvalidatorError(
                f'broker and queue "{queue}" answer, but {REBUILDS} new consumers in a row were gone at the next '
                "check; find the policy or the operator that removes them"
            )

    async def until_the_end(self, session: Session, subscription: Subscription) -> str:
        """Return why the subscription has ended, once it has."""
        received = -1
        check: asyncio.Task[Inspected] | None = None
        while not subscription.ended.done():
            self._on_consuming()
            await asyncio.wait([subscription.ended], timeout=WATCH_SECONDS)
            if subscription.ended.done() or subscription.is_cancelling:
                continue
            check = check or asyncio.create_task(session.inspect(subscription.queue))
            await asyncio.wait({check}, timeout=WATCH_SECONDS)
            if not check.done():
                continue  # the heartbeat decides whether a broker that does not answer is lost
            if check.exception():
                self._rebuilds = 0  # the connection is closing, which ends the subscription anyway
            else:
                self._judge(check.result(), subscription, idle=received == subscription.received)
            check, received = None, subscription.received
        if check:
            check.add_done_callback(lambda check: check.cancelled() or check.exception())  # it ends with the connection
        return subscription.ended.result()

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
