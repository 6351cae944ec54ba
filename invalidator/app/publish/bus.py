"""Events inside an application. Publishers and subscribers do not know each other."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

#: A function that is called with an event's data.
Callback = Callable[[Mapping[str, Any]], None]

log = logging.getLogger(__name__)


class SupportsPublish(Protocol):
    """The part of a bus that a source of events needs."""

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Call every subscriber of `event_type`; there may be none."""


class EventBus(SupportsPublish, Protocol):
    """A bus between the sources of events and their subscribers; a service that uses one does not know which kind.

    ::

        class ProductService:
            def __init__(self, bus: EventBus) -> None:
                self._bus = bus

            def update(self, product: int, price: float) -> None:
                ...  # the UPDATE, and its COMMIT
                self._bus.publish("product_updated", {"id": product, "price": price})

        ProductService(LocalEventBus()).update(17, 109.99)
    """

    def subscribe(self, event_type: str, callback: Callback) -> None:
        """Call `callback(data)` for every later event of this type."""


class LocalEventBus:
    """An `EventBus` inside one process, for any number of threads.

    ::

        bus = LocalEventBus()
        bus.subscribe("product_updated", lambda data: print(data["id"], "costs", data["price"]))
        bus.publish("product_updated", {"id": 17, "price": 109.99})

    `publish` calls the subscribers one after another, in the order in which they subscribed and in the publisher's own
    thread, so all of them have been called when it returns. An error of one is logged and stops neither the others nor
    the publisher. Subscribers in other processes receive nothing: use `RabbitEventBus` for them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, tuple[Callback, ...]] = {}

    def subscribe(self, event_type: str, callback: Callback) -> None:
        with self._lock:
            self._callbacks[event_type] = (*self._callbacks.get(event_type, ()), callback)

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        # Called outside the lock, or a callback that publishes or subscribes would wait for itself.
        for callback in self._callbacks.get(event_type, ()):
            try:
                callback(data)
            except Exception:
                log.exception("subscriber of %s raised; calling the remaining subscribers: %r", event_type, callback)
