"""An `EventBus` between processes: publishes to every cluster and service, receives through a temporary queue."""

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from invalidator.app.publish.bus import Callback, LocalEventBus
from invalidator.app.publish.message import broker_settings
from invalidator.app.publish.publisher import Publisher
from invalidator.broker.address import connection_name
from invalidator.broker.consume.listener import Background, Feed, listen
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import InvalidatorError, PoisonError, UnreachableError
from invalidator.events.event import decode
from invalidator.settings import BrokerSettings

#: Seconds that closing may wait for a callback that is running.
CLOSE_SECONDS = 5.0

log = logging.getLogger(__name__)


class RabbitEventBus:
    """Publishes as `Publisher`, and from the first subscription on receives what any process publishes.

    ::

        bus = RabbitEventBus("amqp://shop@rabbitmq.internal/", app_id="shop")
        bus.subscribe("product_updated", lambda data: prices.pop(data["id"], None))
        bus.publish("product_updated", {"id": "abc-123", "price": 109.99})

    Callbacks are called in a thread of the bus, one after another. Events that are published while the broker cannot be
    reached are not received later, so give a TTL to everything that a callback evicts. The broker's user needs the
    permission to declare a queue, `invalidator-bus.…`.
    """

    def __init__(self, broker: str | BrokerSettings, *, app_id: str = "", timeout: float = 1.0) -> None:
        self._broker = broker_settings(broker)
        self._app_id = app_id
        self._timeout = timeout
        self._publisher = Publisher(self._broker, app_id=app_id, timeout=timeout)
        self._subscribers = LocalEventBus()
        self._listener: _Listener | None = None
        self._starting = threading.Lock()
        self._pid = os.getpid()

    def subscribe(self, event_type: str, callback: Callback) -> None:
        """Call `callback(data)` for every later event of this type, from any process.

        Raises:
            UnreachableError, RefusedError: nothing is subscribed, because no broker answers, or the broker refuses it.
        """
        self._listen()
        self._subscribers.subscribe(event_type, callback)

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Return once the broker has stored the event for every cluster; raises as `Publisher.publish`."""
        self._publisher.publish(event_type, data)

    def close(self) -> None:
        """Receive nothing more. The queue goes with the connection."""
        listener, self._listener = self._listener, None
        if listener:
            listener.close()
        self._publisher.close()

    def _listen(self) -> None:
        with self._starting:
            # After a fork the listener's thread exists in the parent only.
            if not self._listener or self._pid != os.getpid():
                name = connection_name("listener", self._app_id)
                self._listener = _Listener(self._broker, self._subscribers, name=name, within=self._timeout)
                self._pid = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Listener:
    """The receiving half: a loop in one thread, and the callbacks in another, where they may block."""

    def __init__(self, broker: BrokerSettings, subscribers: LocalEventBus, *, name: str, within: float) -> None:
        """Return once every later event is received.

        Raises:
            UnreachableError, RefusedError: no broker answers, or it refuses; nothing is received.
        """
        self._subscribers = subscribers
        self._batches: SimpleQueue[tuple[Sequence[Delivery], Future[None]] | None] = SimpleQueue()
        # A daemon: an application that ends does not wait for a callback.
        self._callbacks = threading.Thread(target=self._run, name="event bus callbacks", daemon=True)
        self._callbacks.start()
        feed, first = Feed("events", broker.exchange, "invalidator-bus"), Future[None]()
        self._background = Background(
            lambda: listen(lambda: broker, lambda _: feed, self, name=name, first=first), name="event bus"
        )
        try:
            first.result(within)
        except TimeoutError:
            self._end(within=0)
            raise UnreachableError(f"no broker within {within:g} s") from None
        except InvalidatorError:
            self._end(within=CLOSE_SECONDS)
            raise

    def close(self) -> None:
        """End, and wait for a running callback, unless that is the caller."""
        self._end(within=0 if threading.current_thread() is self._callbacks else CLOSE_SECONDS)

    def _end(self, *, within: float) -> None:
        self._background.close(within=within)
        self._batches.put(None)
        if within:
            self._callbacks.join(within)

    def linked(self) -> None: ...

    def lost(self) -> None: ...

    async def received(self, deliveries: Sequence[Delivery]) -> None:
        """Return when the subscribers have been called."""
        done = Future[None]()
        self._batches.put((deliveries, done))
        await asyncio.wrap_future(done)

    def _run(self) -> None:
        while batch := self._batches.get():
            deliveries, done = batch
            if done.set_running_or_notify_cancel():
                self._call(deliveries)
                done.set_result(None)

    def _call(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            message_type, encoding, _, headers, content_type = delivery.meaning()
            try:
                event = decode(delivery.body, message_type, encoding, headers, content_type=content_type)
            except PoisonError as error:
                log.warning("ignored a message that is not a valid event; workers will dead-letter it: %s", error)
                continue
            data = {name: value for name, value in event.fields.items() if name != "type"}
            self._subscribers.publish(event.type, data)
