"""Hears what the workers of a cluster announce, over a queue that lives as long as the connection.

    queue made and bound ─> linked ─> heard, heard, … ─> lost ─> (a pause) ─> queue made and bound …

Rules of this file:

1. `linked` comes after the binding and before the first word: what is announced from then on is in the queue.
2. What has waited in the queue for longer than a worker may be silent is not worth hearing: the broker drops it, and
   the numbers tell. So who cannot follow forgets everything instead of falling behind.
3. An announcement that cannot be read ends the link: nobody knows which keys it named.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from invalidator.app.near.sequence import SILENCE_SECONDS
from invalidator.broker.address import connection_name
from invalidator.broker.connection import Connection, close, connect, in_our_words, pause, raw_channel
from invalidator.broker.messages import Announcement, read_announcement
from invalidator.broker.subscription import Subscription
from invalidator.errors import InvalidatorError, UnreachableError
from invalidator.settings import BrokerSettings

#: Announcements in this process that are not dealt with yet; the others wait in the broker, where they can expire.
PREFETCH = 100

log = logging.getLogger(__name__)


class Hearer(Protocol):
    """Who is told. None of these may wait."""

    def linked(self) -> None: ...
    def heard(self, announcement: Announcement) -> None: ...
    def lost(self) -> None: ...


async def listen(broker: Callable[[], BrokerSettings], cluster: str, hearer: Hearer, *, role: str) -> None:
    """Tell ``hearer`` what is announced, until cancelled; a lost broker is dialled again and again.

    ``broker`` is asked before every try, so that a changed password is read again.
    """
    reason = ""
    while True:
        try:
            await _link(broker(), cluster, hearer, role)
        except InvalidatorError as error:
            if str(error) != reason:
                reason = str(error)
                log.warning("announcements of %s are not heard, will try again: %s", cluster, reason)
        await asyncio.sleep(pause())


async def _link(broker: BrokerSettings, cluster: str, hearer: Hearer, role: str) -> None:
    """One connection, from dialling to its loss."""
    name = connection_name(role, cluster)
    connection = await connect(broker, name=name)
    try:
        queue = await _queue_of_our_own(connection, broker.purged_exchange, cluster)
        hearer.linked()
        log.info("announcements of %s are heard", cluster)
        subscription = await Subscription.open(connection, queue, tag=name, prefetch=PREFETCH)
        while batch := await subscription.batch(PREFETCH):
            for delivery in batch.deliveries:
                hearer.heard(read_announcement(delivery.body))
            await subscription.settle(batch)
        raise UnreachableError(subscription.ended.result())
    finally:
        hearer.lost()
        await close(connection)


async def _queue_of_our_own(connection: Connection, exchange: str, cluster: str) -> str:
    """The broker names it, nobody else may read it, and it is gone with the connection."""
    async with in_our_words(f'listening to "{exchange}"'):
        channel = await raw_channel(connection)
        ttl = int(SILENCE_SECONDS * 1000)
        declared = await channel.queue_declare("", exclusive=True, arguments={"x-message-ttl": ttl})
        assert declared.queue
        await channel.queue_bind(declared.queue, exchange, routing_key=cluster)
        return declared.queue


class Background:
    """A coroutine in a loop and a thread of its own, for applications with or without a loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task = self._loop.create_task(work())
        # A daemon: an application that ends does not wait for who only listens.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, and wait until it has ended."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()

    def _run(self) -> None:
        with self._runner, contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
