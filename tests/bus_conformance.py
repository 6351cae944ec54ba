"""The behaviour of every `EventBus`, whether it reaches one process or many."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from invalidator.app.publish.bus import EventBus

EVENT = {"id": "abc-123", "price": 109.99}
Received = list[tuple[str, Mapping[str, Any]]]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, because a bus may call its subscribers a little later; the test's timeout ends this."""
    while not condition():
        time.sleep(0.005)


class Conformance:
    """Inherit, and provide a fixture `bus`."""

    def test_one_event_reaches_every_subscriber_of_its_type_in_order(self, bus: EventBus) -> None:
        received: Received = []
        bus.subscribe("product_updated", lambda data: received.append(("first", data)))
        bus.subscribe("product_updated", lambda data: received.append(("second", data)))
        bus.subscribe("product_deleted", lambda data: received.append(("other", data)))
        bus.publish("product_updated", EVENT)
        eventually(lambda: len(received) >= 2)
        bus.publish("product_deleted", EVENT)
        eventually(lambda: len(received) >= 3)
        assert received == [("first", EVENT), ("second", EVENT), ("other", EVENT)]

    def test_an_event_without_subscribers_is_published_all_the_same(self, bus: EventBus) -> None:
        bus.publish("product_updated", EVENT)

    def test_events_of_one_publisher_are_received_in_order(self, bus: EventBus) -> None:
        received: list[int] = []
        bus.subscribe("product_updated", lambda data: received.append(data["id"]))
        for number in range(100):
            bus.publish("product_updated", {"id": number})
        eventually(lambda: len(received) >= 100)
        assert received == list(range(100))

    def test_failing_subscriber_is_logged_and_stops_neither_the_others_nor_the_publisher(
        self, bus: EventBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        received: list[Mapping[str, Any]] = []

        def fail(data: Mapping[str, Any]) -> None:
            raise RuntimeError("this cache is broken")

        bus.subscribe("product_updated", fail)
        bus.subscribe("product_updated", received.append)
        bus.publish("product_updated", EVENT)
        eventually(lambda: bool(received))
        assert received == [EVENT]
        (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert error.getMessage().startswith("subscriber of product_updated raised; calling the remaining subscribers")

    def test_subscriber_may_publish_and_subscribe_itself(self, bus: EventBus) -> None:
        received: list[str] = []

        def chain(data: Mapping[str, Any]) -> None:
            bus.subscribe("cache_dropped", lambda data: received.append("later subscriber"))
            bus.publish("cache_dropped", data)

        bus.subscribe("product_updated", chain)
        bus.publish("product_updated", EVENT)
        eventually(lambda: bool(received))
        assert received == ["later subscriber"]

    def test_nothing_is_lost_between_threads(self, bus: EventBus) -> None:
        received: list[int] = []
        together = threading.Barrier(8)

        def subscribe_and_publish(thread: int) -> None:
            bus.subscribe(f"updated_{thread}", lambda data: received.append(data["id"]))
            together.wait()
            for number in range(50):
                bus.publish(f"updated_{thread}", {"id": 50 * thread + number})

        threads = [threading.Thread(target=subscribe_and_publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: len(received) >= 400)
        assert sorted(received) == list(range(400))
