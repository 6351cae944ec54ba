"""Events inside an application: who publishes knows no subscriber, who subscribes knows no publisher."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog

#: What is called with an event's data.
Callback = Callable[[Mapping[str, Any]], None]

log = structlog.get_logger()


class SupportsPublish(Protocol):
    """All that a source of events has to know."""

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Tell whoever subscribed to `event_type`; there may be nobody."""


class EventBus(SupportsPublish, Protocol):
    """Where sources and subscribers meet; a service that is given one does not know which.

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
        """Have `callback(data)` called for every later event of this type."""


class LocalEventBus:
    """An `EventBus` inside one process, for any number of threads.

    ::

        bus = LocalEventBus()
        bus.subscribe("product_updated", lambda data: print(data["id"], "costs", data["price"]))
        bus.publish("product_updated", {"id": 17, "price": 109.99})

    `publish` calls the subscribers one after another, in the order in which they subscribed and in the publisher's own
    thread, so that all of them know when it returns. An error of one is logged and stops neither the others nor the
    publisher. Subscribers in other processes hear nothing: that is what the broker is for.
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
                log.exception("a subscriber failed; the others are told", event_type=event_type, subscriber=callback)
