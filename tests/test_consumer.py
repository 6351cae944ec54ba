"""Loops that try again and again, with no broker: what they log, and how often."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock

import pytest

from invalidator.broker.consume import consumer as consumer_module
from invalidator.broker.consume import listener
from invalidator.broker.consume.consumer import Consumer
from invalidator.broker.consume.listener import Feed, listen
from invalidator.broker.topology import Topology
from invalidator.runtime import metrics
from invalidator.settings import BrokerSettings, Settings

TRIES = 20
NOWHERE = BrokerSettings(url="amqp://guest@127.0.0.1:1/")


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (consumer_module, listener):
        monkeypatch.setattr(module, "pause", lambda: 0.0)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Broker:
    """Settings of a broker that is not there, with an event that is set once they have been asked for often enough."""

    def __init__(self) -> None:
        self.asked = 0
        self.enough = asyncio.Event()

    def __call__(self) -> BrokerSettings:
        self.asked += 1
        if self.asked > TRIES:
            self.enough.set()
        return NOWHERE


async def test_a_consumer_logs_an_outage_once_and_not_at_every_try(caplog: pytest.LogCaptureFixture) -> None:
    broker, before = Broker(), metrics.RECONNECTS._value.get()
    consumer = Consumer(
        broker, Topology.of(Settings(cluster="eu")), tag="tag", on_gap=lambda _: None, store_gap=AsyncMock()
    )
    running = asyncio.create_task(consumer.run())
    await broker.enough.wait()
    consumer.close()
    await running
    assert metrics.RECONNECTS._value.get() - before >= TRIES
    (line,) = lines(caplog)
    assert line.startswith("not consuming; will try again reason=")


async def test_a_consumer_remembers_when_it_found_no_broker_for_the_last_time() -> None:
    broker, asked = Broker(), list[datetime]()

    def ask() -> BrokerSettings:
        asked.append(datetime.now(UTC))
        return broker()

    consumer = Consumer(
        ask, Topology.of(Settings(cluster="eu")), tag="tag", on_gap=lambda _: None, store_gap=AsyncMock()
    )
    running = asyncio.create_task(consumer.run())
    await broker.enough.wait()
    consumer.close()
    await running
    assert consumer._away_since
    assert asked[1] <= consumer._away_since


class Receiver:
    """A receiver that receives nothing."""

    def linked(self) -> None: ...
    async def received(self, deliveries: Any) -> None: ...
    def lost(self) -> None: ...


async def test_a_listener_logs_an_outage_once_and_not_at_every_try(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker()
    feed = Feed("announcements", "cache.purged", "invalidator-near.eu")
    listening = asyncio.create_task(listen(broker, lambda _: feed, Receiver(), name="test"))
    await broker.enough.wait()
    listening.cancel()
    await asyncio.wait({listening})
    (line,) = lines(caplog)
    assert line.startswith("not receiving; will try again reason=")
