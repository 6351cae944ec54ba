"""An `EventBus` between processes: publishes to every cluster and service, and hears through a queue of its own."""

import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import pika
import structlog

from invalidator.app.publish.bus import Callback, LocalEventBus
from invalidator.app.publish.message import broker_settings
from invalidator.app.publish.publisher import Publisher
from invalidator.broker.address import connection_name
from invalidator.broker.listener import Listener
from invalidator.errors import PoisonError
from invalidator.events.event import decode
from invalidator.settings import BrokerSettings

log = structlog.get_logger()


class RabbitEventBus:
    """Publishes as `Publisher`, and hears what any process publishes from the first subscription on.

    ::

        bus = RabbitEventBus("amqp://shop@rabbitmq.internal/", app_id="shop")
        bus.subscribe("product_updated", lambda data: prices.pop(data["id"], None))
        bus.publish("product_updated", {"id": "abc-123", "price": 109.99})

    Callbacks are called in a thread of the bus, one after another; one that takes longer than a minute costs the
    connection. What is published while the broker is lost is not heard later, so keep nothing by it that has no end of
    its own. The broker's user needs the right to make a queue, `amq.gen-…`.
    """

    def __init__(self, broker: str | BrokerSettings, *, app_id: str = "", timeout: float = 1.0) -> None:
        self._broker = broker_settings(broker)
        self._app_id = app_id
        self._timeout = timeout
        self._publisher = Publisher(self._broker, app_id=app_id, timeout=timeout)
        self._subscribers = LocalEventBus()
        self._listener: Listener | None = None
        self._listening = threading.Lock()
        self._pid = os.getpid()

    def subscribe(self, event_type: str, callback: Callback) -> None:
        """Have `callback(data)` called for every later event of this type, whoever publishes it.

        Raises:
            UnreachableError, RefusedError: nothing is subscribed, because there is no broker, or it says no.
        """
        self._listen()
        self._subscribers.subscribe(event_type, callback)

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Return once the broker has stored the event for every cluster; raises as `Publisher.publish`."""
        self._publisher.publish(event_type, data)

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener:
            listener.close()
        self._publisher.close()

    def _listen(self) -> None:
        with self._listening:
            if self._listener and self._pid == os.getpid():
                return
            # After a fork the thread of the one before is the parent's.
            name = connection_name("listener", self._app_id)
            listener = Listener(self._broker, name=name, hear=self._hear)
            listener.start(within=self._timeout)
            self._listener, self._pid = listener, os.getpid()

    def _hear(self, body: bytes, about: pika.BasicProperties) -> None:
        try:
            event = decode(body, type=about.type, encoding=about.content_encoding, headers=about.headers)
        except PoisonError as error:
            log.warning("heard what is no event; the workers keep it as a dead letter", reason=str(error))
            return
        data = {name: value for name, value in event.fields.items() if name != "type"}
        self._subscribers.publish(event.type, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
