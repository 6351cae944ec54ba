"""What every `EventBus` does, whether it reaches one process or many."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from structlog.testing import capture_logs

from invalidator.app.publish.bus import EventBus

EVENT = {"id": "abc-123", "price": 109.99}
Told = list[tuple[str, Mapping[str, Any]]]


def eventually(condition: Callable[[], bool]) -> None:
    """A bus may tell its subscribers a little later; the test's timeout ends this."""
    while not condition():
        time.sleep(0.005)


class Conformance:
    """Inherit, and provide a fixture `bus`."""

    def test_one_event_reaches_every_subscriber_of_its_type_in_order(self, bus: EventBus) -> None:
        told: Told = []
        bus.subscribe("product_updated", lambda data: told.append(("first", data)))
        bus.subscribe("product_updated", lambda data: told.append(("second", data)))
        bus.subscribe("product_deleted", lambda data: told.append(("other", data)))
        bus.publish("product_updated", EVENT)
        eventually(lambda: len(told) >= 2)
        bus.publish("product_deleted", EVENT)
        eventually(lambda: len(told) >= 3)
        assert told == [("first", EVENT), ("second", EVENT), ("other", EVENT)]

    def test_event_without_subscribers_is_nobodys_business(self, bus: EventBus) -> None:
        bus.publish("product_updated", EVENT)

    def test_events_of_one_publisher_are_heard_in_their_order(self, bus: EventBus) -> None:
        told: list[int] = []
        bus.subscribe("product_updated", lambda data: told.append(data["id"]))
        for number in range(100):
            bus.publish("product_updated", {"id": number})
        eventually(lambda: len(told) >= 100)
        assert told == list(range(100))

    def test_failing_subscriber_is_logged_and_stops_neither_the_others_nor_the_publisher(self, bus: EventBus) -> None:
        told: list[Mapping[str, Any]] = []

        def fail(data: Mapping[str, Any]) -> None:
            raise RuntimeError("this cache is broken")

        bus.subscribe("product_updated", fail)
        bus.subscribe("product_updated", told.append)
        with capture_logs() as logs:
            bus.publish("product_updated", EVENT)
            eventually(lambda: bool(told))
        assert told == [EVENT]
        errors = [entry["event_type"] for entry in logs if entry["log_level"] == "error"]
        assert errors == ["product_updated"]

    def test_subscriber_may_publish_and_subscribe_itself(self, bus: EventBus) -> None:
        told: list[str] = []

        def chain(data: Mapping[str, Any]) -> None:
            bus.subscribe("cache_dropped", lambda data: told.append("later subscriber"))
            bus.publish("cache_dropped", data)

        bus.subscribe("product_updated", chain)
        bus.publish("product_updated", EVENT)
        eventually(lambda: bool(told))
        assert told == ["later subscriber"]

    def test_nothing_is_lost_between_threads(self, bus: EventBus) -> None:
        told: list[int] = []
        together = threading.Barrier(8)

        def subscribe_and_publish(thread: int) -> None:
            bus.subscribe(f"updated_{thread}", lambda data: told.append(data["id"]))
            together.wait()
            for number in range(50):
                bus.publish(f"updated_{thread}", {"id": 50 * thread + number})

        threads = [threading.Thread(target=subscribe_and_publish, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: len(told) >= 400)
        assert sorted(told) == list(range(400))
