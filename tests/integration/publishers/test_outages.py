"""Publishers whose broker is lost, silent, in alarm or restarted: what is published again, and what the error says."""

import asyncio
import time

import msgspec
import pytest

from invalidator.errors import (
    UnconfirmedError,
    UnreachableError,
)
from tests.integration.conftest import ProxyFactory
from tests.integration.publishers.kinds import QUEUE, Make, declare
from tests.integration.shop import Publishing, publishing, settings_for
from tests.servers import Broker, free_port


async def test_without_a_broker_the_error_says_that_nothing_went_out(made: Make) -> None:
    with pytest.raises(UnreachableError, match="no broker answers") as raised:
        await made(f"amqp://guest:guest@127.0.0.1:{free_port()}/").publish()
    assert "127.0.0.1" in str(raised.value)
    assert "guest:guest" not in str(raised.value)


async def test_a_broker_restarted_between_two_publishes_is_not_even_noticed(made: Make, own_broker: Broker) -> None:
    url = own_broker.add_vhost(f"restarted-{made.__hash__()}")
    await declare(url)
    publisher = made(url)
    await publisher.publish()
    await asyncio.to_thread(own_broker.remember)
    await asyncio.to_thread(own_broker.kill)
    await asyncio.to_thread(own_broker.start)
    await publisher.publish()
    async with publishing(url) as shop:
        assert await shop.ready(QUEUE) == 2


async def test_a_connection_lost_while_publishing_is_replaced_and_the_event_published_again(
    made: Make, shop: Publishing, vhost: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    publisher = made(vhost.replace(broker.address, way.address))
    await publisher.publish()
    way.replies.hold()
    publishing = asyncio.create_task(publisher.publish())
    while await shop.ready(QUEUE) != 2:
        await asyncio.sleep(0.01)
    way.replies.release()
    await way.reset()
    await publishing
    ids = [message.message_id for message in await shop.take(QUEUE)]
    assert len(ids) in (2, 3)
    assert len(set(ids)) == 2


async def test_a_broker_that_never_confirms_costs_no_more_than_the_timeout_and_the_error_says_maybe(
    made: Make, shop: Publishing, vhost: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    publisher = made(vhost.replace(broker.address, way.address), timeout=4.0)
    await publisher.publish()
    way.replies.hold()
    started = time.monotonic()
    with pytest.raises(UnconfirmedError):
        await publisher.publish()
    assert time.monotonic() - started < 7.0  # closing in order, or a second try, would take four seconds more
    assert await shop.ready(QUEUE) == 2
    way.replies.release()
    await publisher.publish()


async def test_a_broker_that_accepts_and_never_speaks_means_that_nothing_went_out(
    made: Make, shop: Publishing, vhost: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    way.replies.hold()
    with pytest.raises(UnreachableError):
        await made(vhost.replace(broker.address, way.address), timeout=0.3).publish()
    await way.reset()


async def test_in_an_alarm_the_error_names_it(made: Make, own_broker: Broker) -> None:
    url = own_broker.add_vhost(f"alarmed-{made.__hash__()}")
    await declare(url)
    publisher = made(url, timeout=1.0)
    await publisher.publish()
    own_broker.ctl("set_vm_memory_high_watermark", "0.000001")
    try:
        with pytest.raises(UnconfirmedError, match="alarm"):
            await publisher.publish()
    finally:
        own_broker.ctl("set_vm_memory_high_watermark", "absolute", "2GB")
    async with asyncio.timeout(60):
        while True:
            try:
                await publisher.publish()
                break
            except UnconfirmedError:  # the alarm ends a little later than the command
                await asyncio.sleep(0.1)


async def test_the_next_broker_address_is_tried_when_the_first_is_silent(
    made: Make, shop: Publishing, vhost: str, broker: Broker
) -> None:
    settings = settings_for(vhost, {"c1": "127.0.0.1:11211"}).broker
    host = f"127.0.0.1:{free_port()}"
    elsewhere = msgspec.structs.replace(settings, url=vhost.replace(broker.address, host), alternates=[broker.address])
    await made(elsewhere).publish()
    assert await shop.ready(QUEUE) == 1
