"""Many events in one call: their order, and which of them an error is about."""

import asyncio
import json
from collections.abc import Iterable, Iterator

import pytest

from invalidator.errors import (
    IncompleteError,
    UnroutableError,
)
from invalidator.events.event import Event
from tests.integration.conftest import ProxyFactory
from tests.integration.publishers.kinds import QUEUE, Make
from tests.integration.shop import Publishing
from tests.servers import Broker, free_port


def numbered(count: int) -> Iterable[Event]:
    return (Event("product_updated", {"id": number}) for number in range(count))


async def in_queue(shop: Publishing) -> list[int]:
    return [json.loads(message.body)["id"] for message in await shop.take(QUEUE)]


async def test_many_are_confirmed_and_in_order(made: Make, shop: Publishing, vhost: str) -> None:
    assert 5000 == await made(vhost).publish_many(numbered(5000))
    assert list(range(5000)) == await in_queue(shop)


async def test_many_survive_a_connection_that_is_lost_on_the_way_and_keep_their_order(
    made: Make, shop: Publishing, vhost: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    publisher, loop = made(vhost.replace(broker.address, way.address)), asyncio.get_running_loop()

    def interrupted() -> Iterator[Event]:
        for number, event in enumerate(numbered(6000)):
            if number == 4000:
                asyncio.run_coroutine_threadsafe(way.reset(), loop)
            yield event

    assert 6000 == await publisher.publish_many(interrupted())
    ids = await in_queue(shop)
    assert list(range(6000)) == last_of(ids)


def last_of(ids: list[int]) -> list[int]:
    """Return each id once, in the order of the last time it is there."""
    return list(dict.fromkeys(reversed(ids)))[::-1]


async def test_of_many_that_no_queue_stores_the_error_says_which_and_from_where_on_none_was_sent(
    made: Make, shop: Publishing, vhost: str
) -> None:
    async with shop.connection.channel() as channel:
        queue = await channel.declare_queue(QUEUE, passive=True)
        await queue.unbind("product.updates", routing_key="")
    with pytest.raises(IncompleteError, match="no queue is bound") as raised:
        await made(vhost).publish_many(numbered(9000))
    account = raised.value
    assert isinstance(account.cause, UnroutableError)
    assert tuple(range(account.unsent)) == account.unconfirmed
    assert 0 < account.unsent < 9000


async def test_of_many_with_one_that_no_worker_could_read_those_before_it_are_stored(
    made: Make, shop: Publishing, vhost: str
) -> None:
    events = [*numbered(10), Event("product_updated", {"id": object()}), *numbered(10)]
    with pytest.raises(IncompleteError) as raised:
        await made(vhost).publish_many(events)
    assert ((10,), 11) == (raised.value.unconfirmed, raised.value.unsent)
    assert list(range(10)) == await in_queue(shop)


async def test_many_without_a_broker_are_not_sent(made: Make) -> None:
    with pytest.raises(IncompleteError, match="no broker answers") as raised:
        await made(f"amqp://guest:guest@127.0.0.1:{free_port()}/").publish_many(numbered(3))
    assert ((), 0, 69) == (raised.value.unconfirmed, raised.value.unsent, raised.value.exit_code)
