"""``publish(…, wait=…)`` on a real broker and worker: the caller's next read sees its own write."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from invalidator.app import AsyncPublisher, ConfigurationError, Publisher, Receipt
from invalidator.settings import Settings
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import publishing, settings_for, working
from tests.servers import Broker, Memcached


class Threads:
    """A `Publisher`, called from threads of its own: those of the loop look up names for the worker."""

    def __init__(self, url: str, **options: Any) -> None:
        self._publisher = Publisher(url, timeout=20.0, **options)
        self._threads = ThreadPoolExecutor()

    async def publish(self, data: Mapping[str, Any], *, wait: float | None) -> Receipt | None:
        publish = partial(self._publisher.publish, "product_updated", data, wait=wait)
        return await asyncio.get_running_loop().run_in_executor(self._threads, publish)

    async def close(self) -> None:
        self._threads.shutdown()
        self._publisher.close()


class Loop:
    """An `AsyncPublisher`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._publisher = AsyncPublisher(url, timeout=20.0, **options)

    async def publish(self, data: Mapping[str, Any], *, wait: float | None) -> Receipt | None:
        return await self._publisher.publish("product_updated", data, wait=wait)

    async def close(self) -> None:
        await self._publisher.close()


class Shop:
    """Two clusters on one broker, and a publisher that reads from the first."""

    def __init__(self, publisher: Threads | Loop, eu: Settings, us: Settings, nodes: list[Memcached]) -> None:
        self.publisher = publisher
        self.eu, self.us = eu, us
        self.nodes = nodes

    async def change(self, id: int, *, wait: float) -> Receipt | None:
        for node in self.nodes:
            node.set(f"product:{id}", b"old")
        return await self.publisher.publish({"id": id}, wait=wait)

    def holds(self, id: int) -> list[bool]:
        return [node.get(f"product:{id}") is not None for node in self.nodes]


@pytest.fixture(params=[Threads, Loop])
async def shop(request: pytest.FixtureRequest, vhost: str, memcached: MemcachedFactory) -> AsyncIterator[Shop]:
    nodes = [memcached(), memcached()]
    eu = settings_for(vhost, nodes)
    us = settings_for(vhost, [memcached()], cluster="us")
    for settings in (eu, us):
        async with working(settings):
            pass
    publisher = request.param(vhost, cluster="eu")
    yield Shop(publisher, eu, us, nodes)
    await publisher.close()


async def test_publish_returns_when_the_callers_cluster_has_evicted(shop: Shop) -> None:
    async with working(shop.eu), working(shop.us):
        for id in range(20):
            receipt = await shop.change(id, wait=20.0)
            assert [False, False] == shop.holds(id)
            assert receipt
            assert ("eu", 2, [], True) == (receipt.cluster, receipt.evicted, receipt.parked, receipt.is_gone)


async def test_publishes_that_wait_at_the_same_time_get_their_own_receipts(shop: Shop) -> None:
    async with working(shop.eu):
        changes = (shop.publisher.publish({"id": id} | also(id), wait=20.0) for id in range(20))
        receipts = await asyncio.gather(*changes)
    assert [3 if id % 2 else 2 for id in range(20)] == [receipt and receipt.evicted for receipt in receipts]


def also(id: int) -> dict[str, Any]:
    return {"also": f"other:{id}"} if id % 2 else {}


async def test_a_node_that_is_down_is_named(shop: Shop) -> None:
    async with working(shop.eu):
        shop.nodes[1].kill()
        receipt = await shop.publisher.publish({"id": 7}, wait=20.0)
    assert receipt
    assert (["c2"], False) == (receipt.parked, receipt.is_gone)


async def test_a_node_that_hangs_is_named_at_its_deadline_and_at_once_from_then_on(shop: Shop) -> None:
    async with working(shop.eu):
        shop.nodes[1].pause()
        receipts = [await shop.publisher.publish({"id": id}, wait=20.0) for id in (7, 8)]
        shop.nodes[1].resume()
    assert [["c2"], ["c2"]] == [receipt and receipt.parked for receipt in receipts]
    assert receipts[1]
    assert receipts[1].milliseconds < shop.eu.memcached.deadline * 1000


async def test_a_cluster_that_does_not_answer_in_time_is_no_error_and_no_other_answers_for_it(shop: Shop) -> None:
    async with working(shop.us):
        assert await shop.change(7, wait=0.3) is None
    async with working(shop.eu):
        receipt = await shop.change(8, wait=20.0)
    assert receipt
    assert (2, [False, False]) == (receipt.evicted, shop.holds(7))


async def test_a_dead_letter_evicts_nothing_and_the_receipt_says_so(shop: Shop) -> None:
    async with working(shop.eu):
        receipt = await shop.publisher.publish({"price": 1}, wait=20.0)
    assert receipt
    assert ("missing-field", False) == (receipt.dead, receipt.is_gone)


async def test_after_its_connection_was_lost_a_publish_waits_on_the_next(
    shop: Shop, broker: Broker, proxy: ProxyFactory, vhost: str
) -> None:
    way = await proxy(broker.address)
    publisher = type(shop.publisher)(vhost.replace(broker.address, way.address), cluster="eu")
    async with working(shop.eu):
        assert await publisher.publish({"id": 7}, wait=20.0)
        await way.reset()
        assert await publisher.publish({"id": 8}, wait=20.0)
    await publisher.close()


@pytest.mark.parametrize("kind", [Threads, Loop])
async def test_without_its_clusters_name_a_publisher_waits_for_nothing_and_publishes_nothing(
    kind: "type[Threads | Loop]", shop: Shop, vhost: str
) -> None:
    publisher = kind(vhost)
    with pytest.raises(ConfigurationError, match="name the cluster"):
        await publisher.publish({"id": 7}, wait=1.0)
    await publisher.close()
    async with publishing(vhost) as queues:
        assert 0 == await queues.ready("invalidator.eu")
