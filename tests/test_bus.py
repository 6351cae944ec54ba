"""LocalEventBus: one event reaches every subscriber, whatever another one does."""

import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from invalidator.app.bus import EventBus, LocalEventBus

EVENT = {"id": "abc-123", "price": 109.99}


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads that take turns every few bytecodes, so that what is not locked goes wrong."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_one_event_reaches_every_subscriber_of_its_type_in_order() -> None:
    bus: EventBus = LocalEventBus()
    told: list[tuple[str, Mapping[str, Any]]] = []
    bus.subscribe("product_updated", lambda data: told.append(("first", data)))
    bus.subscribe("product_updated", lambda data: told.append(("second", data)))
    bus.subscribe("product_deleted", lambda data: told.append(("other", data)))
    bus.publish("product_updated", EVENT)
    assert told == [("first", EVENT), ("second", EVENT)]


def test_event_without_subscribers_is_nobodys_business() -> None:
    LocalEventBus().publish("product_updated", EVENT)


def test_failing_subscriber_is_logged_and_stops_neither_the_others_nor_the_publisher() -> None:
    bus = LocalEventBus()
    told: list[Mapping[str, Any]] = []

    def fail(data: Mapping[str, Any]) -> None:
        raise RuntimeError("this cache is broken")

    bus.subscribe("product_updated", fail)
    bus.subscribe("product_updated", told.append)
    with capture_logs() as logs:
        bus.publish("product_updated", EVENT)
    assert told == [EVENT]
    assert [(entry["log_level"], entry["event_type"]) for entry in logs] == [("error", "product_updated")]


def test_subscriber_may_publish_and_subscribe_itself() -> None:
    bus = LocalEventBus()
    told: list[str] = []

    def chain(data: Mapping[str, Any]) -> None:
        bus.subscribe("cache_dropped", lambda data: told.append("later subscriber"))
        bus.publish("cache_dropped", data)

    bus.subscribe("product_updated", chain)
    bus.publish("product_updated", EVENT)
    assert told == ["later subscriber"]


def test_no_subscription_is_lost_between_threads(restless: None) -> None:
    bus = LocalEventBus()
    told: list[int] = []
    together = threading.Barrier(8)

    def subscribe_many() -> None:
        together.wait()
        for number in range(500):
            bus.subscribe("product_updated", lambda _, number=number: told.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=subscribe_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.publish("product_updated", EVENT)
    assert len(told) == 4000
