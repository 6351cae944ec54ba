"""Debts: parked, inspected, over the limit, unreadable, impossible to park, and drained by any worker that can."""

import asyncio
import json
import time

import aio_pika
import pytest

from tests.integration.aftermath import Trial, fill, gaps, held, trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, publishing, settings_for, working
from tests.servers import Broker, TcpProxy

pytestmark = pytest.mark.usefixtures("intake")


async def unreachable(gate: TcpProxy) -> None:
    await gate.refuse()
    await gate.reset()


async def put(shop: Trial, queue: str, *bodies: bytes) -> None:
    """Store messages in a queue directly."""
    async with publishing(shop.url) as publisher, publisher.connection.channel() as channel:
        for body in bodies:
            await channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), queue)


async def test_a_debt_inspected_25_times_is_still_there_and_is_drained(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    async with trial(settings_for(vhost, {"c1": gate.address}), [node]) as (shop, _):
        await unreachable(gate)
        shop.fill(1)
        await shop.publish(1)
        await shop.becomes_ready(1, shop.topology.parked("c1"))
        await shop.get_and_requeue(shop.topology.parked("c1"), times=25)
        await shop.becomes_ready(1, shop.topology.parked("c1"))
        assert not shop.is_gone(1)
        await gate.start()


async def test_a_debt_is_drained_by_another_worker_that_reaches_the_node(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    await unreachable(gate)
    shop = Trial(settings_for(vhost, [node]), [node])
    async with working(settings_for(vhost, {"c1": gate.address})):
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await shop.is_parked("c1")
    async with shop.working():
        pass


async def test_debts_stay_parked_when_the_node_fails_again_while_they_are_drained(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    """The node answers probes, and nothing else."""
    node = memcached()
    gate = await proxy(node.address)
    settings = settings_for(vhost, {"c1": gate.address}, memcached={"deadline": 0.2})
    async with trial(settings, [node]) as (shop, _):
        tried = asyncio.Event()

        def probes_only(data: bytes) -> bytes:
            if data.startswith(b"md "):
                return data
            tried.set()
            return b""

        gate.requests.rewrite = probes_only
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await shop.is_parked("c1")
        tried.clear()
        async with asyncio.timeout(60):
            await tried.wait()  # now by the drainer
        await shop.is_parked("c1")
        assert not shop.is_gone(*range(10))
        gate.requests.rewrite = None


async def test_a_hundred_thousand_parked_keys_drain_in_seconds_while_new_events_flow(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    async with trial(settings_for(vhost, {"c1": gate.address}), [node]) as (shop, _):
        await unreachable(gate)
        keys = [[f"k{event}:{number}" for number in range(10_000)] for event in range(10)]
        async with publishing(vhost) as publisher:
            for part in keys:
                fill(node, part)
                await publisher.raw(json.dumps({"type": "cache_evict", "keys": part}).encode())
        await shop.becomes_ready(0)
        await shop.becomes_ready(100, shop.topology.parked("c1"))
        await gate.start()
        started = time.monotonic()
        shop.fill("new")
        await shop.publish("new")
        await eventually(lambda: node.stats()["curr_items"] == "0", every=0.1)
        assert time.monotonic() - started < 30.0, "ten times as long as on an idle machine"


async def test_above_the_parked_limit_the_debt_becomes_a_flush_of_the_node(
    vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node, other = memcached(), memcached()
    gate = await proxy(node.address)
    nodes = {"c1": gate.address, "c2": other.address}
    async with trial(settings_for(vhost, nodes, worker={"parked_limit": 20}), [node, other]) as (shop, _):
        await unreachable(gate)
        for copies in (node, other):
            fill(copies, ["what"])
        for product in range(30):
            shop.fill(product)
            await shop.publish(product)
            await shop.becomes_ready(0)
        async with publishing(vhost) as publisher:
            debts = [json.loads(debt.body) for debt in await publisher.take(shop.topology.parked("c1"))]
        assert sum(len(debt.get("keys", ())) for debt in debts) == 20
        assert all(debt.get("flush") for debt in debts[-10:])
        await put(shop, shop.topology.parked("c1"), *(json.dumps(debt).encode() for debt in debts))
        await gate.start()
        await eventually(lambda: node.stats()["cmd_flush"] != "0")
        assert not held(node, ["what"])
    assert held(other, ["what"])


UNREADABLE = [
    b"", b"not JSON", b'{"v": 2, "keys": []}', b'{"v": 1, "keys": "all"}', b'{"v": 1, "keys": ["\xc2\x85"]}',
    b'{"v": 1, "keys": ["a b"]}', b'{"v": 1, "keys": [""]}', b'{"v": 1, "keys": ["' + b"x" * 251 + b'"]}',
    b'{"v": 1, "keys": ["' + b"\xc3\xa9" * 126 + b'"]}',
]  # fmt: skip


async def test_unreadable_debts_are_dead_letters_and_the_debts_around_them_are_drained(
    vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    shop = Trial(settings_for(vhost, [node]), [node])
    await shop.declare()
    shop.fill(1, 2)
    shop.poison += UNREADABLE
    debts = [b'{"v": 1, "keys": ["product:%d"]}' % product for product in (1, 2)]
    await put(shop, shop.topology.parked("c1"), debts[0], *UNREADABLE, debts[1])
    async with shop.working():
        pass


@pytest.mark.parametrize("declare", ["active", "passive"])
async def test_without_a_parking_queue_nothing_is_acknowledged_until_it_is_there_again(
    declare: str, broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    """With active declare the worker makes it again; in both cases the debts of the old one are a gap."""
    node = memcached()
    gate = await proxy(node.address)
    shop = Trial(settings_for(vhost, {"c1": gate.address}, broker={"prefetch": 5, "declare": declare}), [node])
    await shop.declare()
    async with shop.working() as worker:
        before = gaps()
        await unreachable(gate)
        await shop.publish("seen")
        await shop.is_parked("c1")
        await eventually(lambda: worker._drainer._empty_at)
        broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/{shop.topology.parked('c1')}")
        shop.fill(*range(20))
        await shop.publish(*range(20))
        if declare == "passive":
            await eventually(lambda: "parking for c1 is impossible" in worker.status())
            assert await shop.ready() == 15
            await eventually(lambda: gaps() == before + 1)
            await shop.declare()
        await shop.becomes_ready(0)
        await shop.is_parked("c1")
        assert gaps() == before + 1
        await gate.start()
