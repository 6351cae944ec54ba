"""The broker dies, hangs, is cut off, is in an alarm."""

import asyncio

import pytest

from tests.integration.aftermath import alarm, consumers, trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, settings_for
from tests.servers import Broker

pytestmark = pytest.mark.usefixtures("intake")

#: Seconds within which a worker is back on a busy machine. test_long_faults.py measures it on an idle one.
BACK_WITHIN = 60.0


async def test_events_in_flight_when_the_broker_is_killed_are_evicted_when_it_is_back(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    settings = settings_for(own_vhost, {"c1": between.address}, memcached={"deadline": 60.0}, broker={"prefetch": 20})
    async with trial(settings, [node], within=BACK_WITHIN) as (shop, worker):
        between.replies.hold()
        shop.fill(*range(50))
        await shop.publish(*range(50))
        await eventually(lambda: shop.is_gone(0))
        own_broker.kill()
        await eventually(lambda: worker.status().startswith("waiting for the broker"))
        shop.fill(*range(50))
        between.replies.release()
        await asyncio.to_thread(own_broker.start)


async def test_a_broker_that_hangs_is_found_by_its_heartbeat_and_consumed_from_when_it_answers(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(own_vhost, [node], broker={"heartbeat": 1, "connect_timeout": 1.0})
    async with trial(settings, [node], within=BACK_WITHIN) as (shop, worker):
        shop.fill(1)
        own_broker.pause()
        try:
            await eventually(lambda: worker.status().startswith("waiting for the broker"))
        finally:
            own_broker.resume()
        await shop.publish(1)


async def test_a_partition_from_the_broker_leaves_no_second_consumer_over(
    vhost: str, broker: Broker, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node, between = memcached(), await proxy(broker.address)
    url = vhost.replace(broker.address, between.address)
    elsewhere = {"heartbeat": 1, "connect_timeout": 0.5, "alternates": [broker.address]}
    settings = settings_for(url, [node], broker=elsewhere)
    async with trial(settings, [node], url=vhost, within=BACK_WITHIN) as (shop, worker):
        between.requests.swallow = between.replies.swallow = True
        shop.fill(*range(20))
        await shop.publish(*range(20))  # the broker hands them to the consumer that it believes in
        await eventually(lambda: worker.status().startswith("waiting for the broker"))
        await eventually(lambda: worker.status() == "consuming")
        async with asyncio.timeout(BACK_WITHIN):
            while await consumers(vhost, shop.topology.queue) != 1:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_in_an_alarm_evicting_and_acking_go_on_and_poison_is_rejected_to_the_dead_letter_queue(
    kind: str, own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    settings = settings_for(
        own_vhost, {"c1": between.address}, memcached={"deadline": 60.0}, broker={"prefetch": 5, "publish_timeout": 0.5}
    )
    async with trial(settings, [node]) as (shop, _):
        between.replies.hold()
        shop.fill(*range(40))
        await shop.publish(*range(20))
        await shop.publish_poison(b"{", b"[]")
        await shop.publish(*range(20, 40))
        await eventually(lambda: shop.is_gone(0))
        async with alarm(own_broker, kind):
            between.replies.release()
            await eventually(shop.is_gone)  # five are held at a time, so each got there by an acknowledgement
            await shop.becomes_ready(2, shop.topology.dead)


async def test_debts_that_an_alarm_keeps_from_being_parked_hold_everything_back_until_it_is_over(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    settings = settings_for(
        own_vhost, {"c1": gate.address}, memcached={"deadline": 60.0}, broker={"prefetch": 5, "publish_timeout": 0.5}
    )
    async with trial(settings, [node]) as (shop, worker):
        gate.requests.hold()
        shop.fill(*range(20))
        await shop.publish(*range(20))
        await shop.becomes_ready(15)
        async with alarm(own_broker, "disk"):
            await gate.refuse()
            await gate.reset()
            gate.requests.release()
            await eventually(lambda: "parking for c1 is impossible" in worker.status())
            assert await shop.ready() == 15  # nothing was acknowledged, nothing more was taken
        await shop.becomes_ready(0)
        assert not shop.is_gone()
        await gate.start()
