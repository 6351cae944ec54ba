"""Receiving what is published to an exchange, through a temporary queue that lives as long as its connection.

    queue declared and bound ─> linked ─> received, received, … ─> lost ─> (a pause) ─> queue declared and bound …

Rules of this file:

1. `linked` is called after the binding and before the first message: what is published from then on is in the queue.
2. What is published while there is no connection is missed. A consumer that must not miss any has a durable queue.
3. A message that `received` refuses with an error of ours ends the connection.
"""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from invalidator.broker.connection import Connection, close, connect, in_our_words, pause, raw_channel
from invalidator.broker.consume.subscription import Subscription
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import InvalidatorError, RefusedError, UnreachableError
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import BrokerSettings

#: Messages in this process that are not received yet. The others wait in the broker, where they can expire.
PREFETCH = 100

log = Log(__name__)


class Feed(NamedTuple):
    """The messages to receive."""

    #: A name for them in the log: "announcements for cluster eu".
    what: str
    exchange: str
    #: The beginning of the queue's name, which shows in the management UI whose it is.
    queue: str
    routing_key: str = ""
    #: Seconds after which the broker drops a message that still waits in the queue.
    max_age: float | None = None


class Receiver(Protocol):
    """The object that a listener calls."""

    def linked(self) -> None: ...
    async def received(self, deliveries: Sequence[Delivery]) -> None: ...
    def lost(self) -> None: ...


async def listen(
    broker: Callable[[], BrokerSettings],
    feed: Callable[[BrokerSettings], Feed],
    receiver: Receiver,
    *,
    name: str,
    first: "Future[None] | None" = None,
) -> None:
    """Hand ``receiver`` every message until cancelled; connect again after a connection was lost.

    ``broker`` is called before every try, so that a changed password is read again. ``first``, if given, receives the
    outcome of the first try, and a first try that fails is the last one.
    """
    outage = Outage(log.warning, "not receiving; will try again")
    if first is None:
        first = Future()
        first.set_result(None)
    while True:
        settings = broker()
        wanted = feed(settings)
        try:
            await _link(settings, wanted, receiver, name, first, outage)
        except InvalidatorError as error:
            if not first.done():
                first.set_exception(error)
                return
            outage.lasts(str(error), feed=wanted.what)
        await asyncio.sleep(pause())


async def _link(
    broker: BrokerSettings, feed: Feed, receiver: Receiver, name: str, linked: "Future[None]", outage: Outage
) -> None:
    """Run one connection, from connecting to its loss."""
    connection = await connect(broker, name=name)
    try:
        queue = await _temporary_queue(connection, feed)
        receiver.linked()
        if not linked.done():
            linked.set_result(None)
        outage.ends()
        log.info(f"receiving {feed.what}")
        subscription = await Subscription.open(connection, queue, tag=name, prefetch=PREFETCH)
        while batch := await subscription.batch(PREFETCH):
            await receiver.received(batch.deliveries)
            await subscription.settle(batch)
        raise UnreachableError(subscription.ended.result())
    finally:
        receiver.lost()
        await close(connection)


async def _temporary_queue(connection: Connection, feed: Feed) -> str:
    """Declare and bind a queue that only this connection may read, and that goes with it; return its name."""
    name = f"{feed.queue}.{socket.gethostname()}.{os.getpid()}.{uuid4().hex[:8]}"
    try:
        return await _declared(connection, feed, name)
    except RefusedError:  # until 0.1 the broker named these queues, and users were permitted `amq.gen-…` alone
        return await _declared(connection, feed, "")


async def _declared(connection: Connection, feed: Feed, name: str) -> str:
    async with in_our_words(f'listening to "{feed.exchange}"'):
        channel = await raw_channel(connection)
        arguments: dict[str, Any] = {} if feed.max_age is None else {"x-message-ttl": int(feed.max_age * 1000)}
        declared = await channel.queue_declare(name, exclusive=True, arguments=arguments)
        assert declared.queue
        await channel.queue_bind(declared.queue, feed.exchange, routing_key=feed.routing_key)
        return declared.queue


#: Seconds for a cancelled coroutine to close its connection.
CANCEL_SECONDS = 1.0


class Background:
    """A coroutine that runs in its own loop and thread, for applications with or without a loop."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task = self._loop.create_task(work())
        # A daemon: an application that ends does not wait for a listener.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self, *, within: float | None = None) -> None:
        """Cancel the coroutine, and wait until it has ended, at most ``within`` seconds.

        A library below may swallow a cancellation that comes as its connection fails, so it is repeated.
        """
        until = time.monotonic() + (float("inf") if within is None else within)
        while self._thread.is_alive() and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(RuntimeError):  # the loop was closed a moment ago
                self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join(min(left, CANCEL_SECONDS))

    def _run(self) -> None:
        with self._runner, contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
