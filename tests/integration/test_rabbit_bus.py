"""RabbitEventBus on a real broker: the behaviour of every bus, and of this one alone."""

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from invalidator.app.publish.bus import EventBus
from invalidator.app.publish.publisher import Publisher
from invalidator.app.publish.rabbit_bus import RabbitEventBus
from invalidator.errors import RefusedError, UnreachableError
from invalidator.operate.topology import declared
from tests.bus_conformance import EVENT, Conformance, eventually
from tests.integration.conftest import ProxyFactory
from tests.integration.shop import publishing, settings_for
from tests.servers import Broker, free_port


@pytest.fixture
async def exchange(vhost: str) -> str:
    """Make a vhost in which a cluster's queue is bound to the exchange, as everywhere in production."""
    await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
    return vhost


@pytest.fixture
def bus(exchange: str) -> Iterator[RabbitEventBus]:
    with RabbitEventBus(exchange, timeout=20.0) as bus:
        yield bus


class TestRabbitEventBus(Conformance):
    @pytest.fixture
    def bus(self, bus: RabbitEventBus) -> EventBus:
        return bus


def test_events_of_other_processes_are_received_and_invalid_ones_ignored(
    bus: RabbitEventBus, exchange: str, broker: Broker
) -> None:
    received: list[Mapping[str, Any]] = []
    bus.subscribe("product_updated", received.append)
    properties: dict[str, Any] = {}
    raw = {"properties": properties, "routing_key": "", "payload": "no JSON", "payload_encoding": "string"}
    broker.api("POST", f"/exchanges/{exchange.rpartition('/')[2]}/product.updates/publish", raw)
    with Publisher(exchange, timeout=20.0) as publisher:
        publisher.publish("product_updated", EVENT)
    eventually(lambda: bool(received))
    assert received == [EVENT]


async def test_after_a_lost_connection_it_listens_again(exchange: str, broker: Broker, proxy: ProxyFactory) -> None:
    way = await proxy(broker.address)
    received: list[Mapping[str, Any]] = []
    bus = RabbitEventBus(exchange.replace(broker.address, way.address), timeout=20.0)
    await asyncio.to_thread(bus.subscribe, "product_updated", received.append)
    await way.reset()
    async with publishing(exchange) as shop:
        while not received:  # events published before it is back are not received
            await shop.update("abc-123")
            await asyncio.sleep(0.05)
    assert received[0] == {"id": "abc-123"}
    await asyncio.to_thread(bus.close)


def test_without_a_broker_nothing_is_subscribed_and_the_error_says_so() -> None:
    bus = RabbitEventBus(f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    with pytest.raises(UnreachableError):
        bus.subscribe("product_updated", print)


async def test_a_broker_that_hangs_does_not_block_subscribers(
    exchange: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    frames = 0

    def first_frames_only(data: bytes) -> bytes:
        nonlocal frames
        frames += 1
        return data if frames < 4 else b""  # connected, but no channel is opened

    way.replies.rewrite = first_frames_only
    bus = RabbitEventBus(exchange.replace(broker.address, way.address), timeout=2.0)
    with pytest.raises(UnreachableError):
        await asyncio.to_thread(bus.subscribe, "product_updated", print)
    await way.reset()


def test_a_refusal_is_no_outage(exchange: str) -> None:
    bus = RabbitEventBus(exchange.replace("guest:guest", "guest:wrong"), timeout=20.0)
    with pytest.raises(RefusedError, match="wrong user or password"):
        bus.subscribe("product_updated", print)


def test_a_closed_bus_leaves_no_queue_behind(exchange: str, broker: Broker) -> None:
    name = exchange.rpartition("/")[2]
    bus = RabbitEventBus(exchange, timeout=20.0)
    bus.subscribe("product_updated", print)

    def own_queues() -> list[str]:
        names = [queue["name"] for queue in broker.api("GET", f"/queues/{name}")]
        return [name for name in names if name.startswith(f"invalidator-bus.{socket.gethostname()}.{os.getpid()}.")]

    assert len(own_queues()) == 1
    bus.close()
    eventually(lambda: not own_queues())
