"""LocalEventBus: one event reaches every subscriber, whatever another one does."""

import sys
import threading
from collections.abc import Iterator

import pytest

from invalidator.app.publish.bus import EventBus, LocalEventBus
from tests.bus_conformance import EVENT, Conformance


class TestLocalEventBus(Conformance):
    @pytest.fixture
    def bus(self) -> EventBus:
        return LocalEventBus()


@pytest.fixture
def restless() -> Iterator[None]:
    """Let threads take turns every few bytecodes, so that code without a lock fails."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_all_subscribers_have_been_called_when_publish_returns() -> None:
    bus = LocalEventBus()
    received: list[object] = []
    bus.subscribe("product_updated", received.append)
    bus.publish("product_updated", EVENT)
    assert received == [EVENT]


def test_no_subscription_is_lost_between_threads(restless: None) -> None:
    bus = LocalEventBus()
    received: list[int] = []
    together = threading.Barrier(8)

    def subscribe_many() -> None:
        together.wait()
        for number in range(500):
            bus.subscribe("product_updated", lambda _, number=number: received.append(number))  # type: ignore[misc]

    threads = [threading.Thread(target=subscribe_many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bus.publish("product_updated", EVENT)
    assert len(received) == 4000
