"""The queue is deleted, the consumer or its connection is gone, and the worker is back within ten seconds."""

import asyncio

import pytest

from tests.integration.aftermath import Trial, gaps, trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, settings_for
from tests.servers import Broker

pytestmark = pytest.mark.usefixtures("intake")

#: Seconds within which a worker is back on a busy machine. test_long_faults.py measures it on an idle one.
BACK_WITHIN = 60.0

#: Faults that no operator can cause: the consumer is removed and the queue stays; without a notice, or with one.
LOOK_UP = '{ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"invalidator.eu">>)), '
FORGET_CONSUMERS = LOOK_UP + (
    "[ra:process_command(amqqueue:get_pid(Q), rabbit_fifo:make_checkout({element(2, C), element(1, C)}, cancel, #{}))"
    " || C <- rabbit_amqqueue:consumers(Q)]."
)
CANCEL_CONSUMERS = LOOK_UP + (
    "[gen_server2:cast(element(1, C), {queue_event, amqqueue:get_name(Q), {amqqueue:get_pid(Q), {machine, eol}}})"
    " || C <- rabbit_amqqueue:consumers(Q)]."
)


def vhost_of(url: str) -> str:
    return url.rpartition("/")[2]


async def delete_queue(broker: Broker, url: str, queue: str = "invalidator.eu") -> None:
    await asyncio.to_thread(broker.api, "DELETE", f"/queues/{vhost_of(url)}/{queue}")


async def test_a_queue_deleted_under_its_consumer_is_a_gap_and_is_made_again(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(settings_for(vhost, [node]), [node], within=BACK_WITHIN) as (_, worker):
        before = gaps()
        await delete_queue(broker, vhost)
        await eventually(lambda: worker.status().startswith("waiting for the broker"))
        await eventually(lambda: gaps() == before + 1, within=BACK_WITHIN)


async def test_with_passive_declare_a_deleted_queue_is_waited_for_and_a_gap_reported_when_it_is_back(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node], broker={"declare": "passive"})
    shop = Trial(settings, [node])
    await shop.declare()
    async with shop.working(within=BACK_WITHIN) as worker:
        before = gaps()
        await delete_queue(broker, vhost)
        await eventually(lambda: "invalidator topology declare" in worker.status())
        assert gaps() == before
        await shop.declare()
        await eventually(lambda: gaps() == before + 1, within=BACK_WITHIN)


@pytest.mark.parametrize("declare", ["active", "passive"])
async def test_a_queue_deleted_and_made_again_at_once_by_somebody_else_is_a_gap(
    declare: str, broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node], broker={"declare": declare})
    shop = Trial(settings, [node])
    await shop.declare()
    async with shop.working(within=BACK_WITHIN):
        before = gaps()
        await delete_queue(broker, vhost)
        await shop.declare()
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await eventually(lambda: gaps() == before + 1, within=BACK_WITHIN)


async def test_what_was_delivered_before_the_queue_was_deleted_is_evicted_all_the_same(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    one_at_a_time = {"batch_events": 1, "batches_in_flight": 1}
    settings = settings_for(vhost, {"c1": between.address}, memcached={"deadline": 60.0}, worker=one_at_a_time)
    async with trial(settings, [node], within=BACK_WITHIN) as (shop, worker):
        between.requests.hold()
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await shop.becomes_ready(0)
        await delete_queue(broker, vhost)
        await eventually(lambda: worker.status().startswith("waiting for the broker"))
        between.requests.release()


async def test_a_consumer_cancelled_by_the_broker_is_rebuilt_and_a_gap_reported(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(settings_for(vhost, [node]), [node], within=BACK_WITHIN) as (_, worker):
        before = gaps()
        await asyncio.to_thread(broker.ctl, "eval", CANCEL_CONSUMERS % vhost_of(vhost))
        await eventually(lambda: worker.status().startswith("waiting for the broker: the broker cancelled"))
        await eventually(lambda: gaps() == before + 1, within=BACK_WITHIN)


async def test_a_consumer_that_the_broker_has_forgotten_is_noticed_within_seconds_and_rebuilt(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(settings_for(vhost, [node]), [node], within=BACK_WITHIN) as (shop, worker):
        await asyncio.to_thread(broker.ctl, "eval", FORGET_CONSUMERS % vhost_of(vhost))
        shop.fill(*range(10))
        await shop.publish(*range(10))
        forgotten = "waiting for the broker: the broker does not know the consumer"
        await eventually(lambda: worker.status().startswith(forgotten))


async def test_a_deleted_queue_is_noticed_without_a_notice_from_the_broker(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node, between = memcached(), await proxy(broker.address)
    settings = settings_for(vhost.replace(broker.address, between.address), [node])
    async with trial(settings, [node], url=vhost, within=BACK_WITHIN) as (_, worker):
        before = gaps()
        between.replies.rewrite = without_cancel
        await delete_queue(broker, vhost)
        await eventually(lambda: worker.status().startswith("waiting for the broker: the queue is gone"))
        await eventually(lambda: gaps() == before + 1, within=BACK_WITHIN)


def without_cancel(data: bytes) -> bytes:
    """Return what the broker sends, without a basic.cancel (class 60, method 30)."""
    at = data.find(b"\x00\x3c\x00\x1e")
    if at < 7 or data[at - 7] != 1:
        return data
    size = int.from_bytes(data[at - 4 : at])
    return data[: at - 7] + data[at + size + 1 :]


async def test_connections_closed_by_an_operator_are_made_again(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    settings = settings_for(vhost, {"c1": between.address}, memcached={"deadline": 60.0})
    async with trial(settings, [node], within=BACK_WITHIN) as (shop, worker):
        between.requests.hold()
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await shop.becomes_ready(0)
        await asyncio.to_thread(broker.ctl, "close_all_connections", "--vhost", vhost_of(vhost), "maintenance")
        await eventually(lambda: worker.status().startswith("waiting for the broker"))
        between.requests.release()


async def test_a_dead_letter_inspected_25_times_is_still_there(vhost: str, memcached: MemcachedFactory) -> None:
    node = memcached()
    async with trial(settings_for(vhost, [node]), [node]) as (shop, _):
        await shop.publish_poison(b"not JSON")
        await shop.becomes_ready(1, shop.topology.dead)
        await shop.get_and_requeue(shop.topology.dead, times=25)
        await shop.becomes_ready(1, shop.topology.dead)
