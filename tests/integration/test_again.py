"""`again_after`: the same keys evicted a second time, through a queue that returns them after the delay."""

import asyncio
import json

import msgspec
import pytest

from invalidator.broker.connection import close, connect
from invalidator.broker.declare import declare
from invalidator.broker.topology import Topology
from invalidator.operate.diagnosis.permissions import needed, refused
from invalidator.operate.topology import verify
from invalidator.runtime import metrics
from invalidator.settings import ManagementSettings, RuleSettings, Secret, Settings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import eventually, publishing, settings_for, working
from tests.servers import Broker, Memcached


def settings_with(url: str, nodes: list[Memcached], *, seconds: float) -> Settings:
    rule = RuleSettings(on="product_updated", evict=["product:{id}", "product:{id}:reviews"], again_after=seconds)
    return msgspec.structs.replace(settings_for(url, nodes), rule=[rule])


async def is_evicted(node: Memcached, *keys: str) -> None:
    await eventually(lambda: not any(node.get(key) for key in keys), within=60.0)


def fill(node: Memcached, *keys: str) -> None:
    for key in keys:
        node.set(key, b"old")


async def test_a_value_filled_from_a_lagging_replica_is_evicted_a_second_time(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_with(vhost, [node], seconds=0.5)
    before = metrics.AGAIN._value.get()
    async with working(settings), publishing(vhost) as shop:
        fill(node, "product:7", "product:7:reviews")
        await shop.update(7)
        await is_evicted(node, "product:7", "product:7:reviews")
        fill(node, "product:7", "product:7:reviews")
        await is_evicted(node, "product:7", "product:7:reviews")
        await shop.settled(Topology.of(settings))
        assert await shop.ready("invalidator.eu.again.500ms") == 0, "evicted twice, and not forever"
    assert metrics.AGAIN._value.get() - before == 2


async def test_a_waiting_eviction_lists_its_keys_so_that_no_new_rule_changes_it(
    vhost: str, memcached: MemcachedFactory
) -> None:
    settings = settings_with(vhost, [memcached()], seconds=3600)
    async with working(settings), publishing(vhost) as shop:
        await shop.update(7)
        async with asyncio.timeout(60):
            while not (waiting := await shop.take("invalidator.eu.again.3600000ms")):
                await asyncio.sleep(0.02)
    assert [json.loads(message.body) for message in waiting] == [
        {"type": "cache_evict", "keys": ["product:7", "product:7:reviews"]}
    ]


@pytest.mark.timeout(120)
async def test_second_evictions_survive_a_killed_broker(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_with(own_vhost, [node], seconds=25.0)
    async with publishing(own_vhost) as shop:
        async with working(settings):
            await asyncio.to_thread(own_broker.remember)
            await shop.update(*range(300))
            await shop.settled(Topology.of(settings))
        assert not await shop.ready("invalidator.eu")
        assert await shop.ready("invalidator.eu.again.25000ms")
    # The worker has acknowledged all events and is gone. Only the evictions waiting in the broker are left.
    own_broker.kill()
    keys = [f"product:{product}" for product in range(300)]
    fill(node, *keys)
    await asyncio.to_thread(own_broker.start)
    async with working(settings):
        await is_evicted(node, *keys)


async def test_without_its_queue_the_second_eviction_is_done_by_the_batch_itself(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_with(vhost, [node], seconds=0.5)
    async with working(settings), publishing(vhost) as shop:
        broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/invalidator.eu.again.500ms")
        fill(node, "product:7")
        await shop.update(7)
        await is_evicted(node, "product:7")
        fill(node, "product:7")
        await is_evicted(node, "product:7")
    async with publishing(vhost) as shop:
        assert await shop.ready("invalidator.eu") == 0


async def test_its_queue_is_declared_and_verified_and_its_permissions_are_listed(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    management = ManagementSettings(url=broker.management_url, user="guest", password=Secret("guest"))
    settings = msgspec.structs.replace(settings_with(vhost, [memcached()], seconds=5), management=management)
    topology, name = Topology.of(settings), vhost.rpartition("/")[2]
    connection = await connect(settings.broker, name="test")
    await declare(connection, topology)
    found = await verify(settings, connection)
    assert {finding.level for finding in found} == {"ok"}
    assert "invalidator.eu.again.5000ms: loses nothing" in [finding.text for finding in found]
    broker.api("PUT", f"/permissions/{name}/guest", vars(needed(topology, declares=True)))
    await declare(connection, topology)
    assert await refused(connection, connection, topology, declares=True) == []
    await close(connection)
