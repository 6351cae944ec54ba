"""The applications' publishers, on a real broker: what is confirmed, and what an error says."""

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pytest

from invalidator.app.publish.async_publisher import AsyncPublisher
from invalidator.app.publish.publisher import Publisher
from invalidator.errors import (
    IncompleteError,
    PoisonError,
    RefusedError,
    UnconfirmedError,
    UnreachableError,
    UnroutableError,
)
from invalidator.events.event import Event, decode
from invalidator.operate.topology import declared
from tests.integration.conftest import ProxyFactory
from tests.integration.shop import Publishing, publishing, settings_for
from tests.servers import Broker, free_port

EVENT = {"id": "abc-123", "price": 109.99}
QUEUE = "invalidator.eu"


class Threads:
    """A `Publisher`, called as from a thread."""

    def __init__(self, url: str, **options: Any) -> None:
        self.publisher = Publisher(url, app_id="shop", **options)

    async def publish(self, type: str = "product_updated", data: Mapping[str, Any] = EVENT) -> None:
        await asyncio.to_thread(self.publisher.publish, type, data)

    async def publish_many(self, events: Iterable[Event]) -> int:
        return await asyncio.to_thread(self.publisher.publish_many, events)

    async def close(self) -> None:
        await asyncio.to_thread(self.publisher.close)


class Loop:
    """An `AsyncPublisher`."""

    def __init__(self, url: str, **options: Any) -> None:
        self.publisher = AsyncPublisher(url, app_id="shop", **options)

    async def publish(self, type: str = "product_updated", data: Mapping[str, Any] = EVENT) -> None:
        await self.publisher.publish(type, data)

    async def publish_many(self, events: Iterable[Event]) -> int:
        return await self.publisher.publish_many(events)

    async def close(self) -> None:
        await self.publisher.close()


Make = Callable[..., "Threads | Loop"]


@pytest.fixture(params=[Threads, Loop])
async def made(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Make]:
    """Return a factory, `made(url, timeout=…)`, of one kind of publisher and then the other.

    Their libraries may log nothing, whatever happens: an error says it.
    """
    caplog.set_level(logging.INFO)
    kept = []

    def make(url: str, *, timeout: float = 20.0) -> Threads | Loop:
        kept.append(request.param(url, timeout=timeout))
        return kept[-1]  # type: ignore[no-any-return]

    yield make
    for publisher in kept:
        await publisher.close()
    assert [] == [record.getMessage() for record in caplog.get_records("call") if not record.name.startswith("invalid")]
    gc.collect()  # an unclosed socket is a warning, and a warning is an error


@pytest.fixture
async def shop(vhost: str) -> AsyncIterator[Publishing]:
    """Make a vhost with a cluster's queue and no worker."""
    await declare(vhost)
    async with publishing(vhost) as shop:
        yield shop


async def declare(url: str) -> None:
    await declared(settings_for(url, {"c1": "127.0.0.1:11211"}))


async def test_a_published_event_is_in_the_queue_with_its_properties(made: Make, shop: Publishing, vhost: str) -> None:
    before = time.time()
    await made(vhost).publish()
    (message,) = await shop.take(QUEUE)
    assert decode(message.body) == decode(json.dumps({"type": "product_updated"} | EVENT).encode())
    assert (message.type, message.app_id, message.content_type) == ("product_updated", "shop", "application/json")
    assert message.delivery_mode == 2
    assert message.message_id
    assert message.timestamp
    assert before - 1 <= message.timestamp.timestamp() <= time.time()


async def test_one_connection_serves_many_publishes_and_names_itself(
    made: Make, shop: Publishing, broker: Broker, vhost: str
) -> None:
    publisher = made(vhost)
    for _ in range(20):
        await publisher.publish()
    assert await shop.ready(QUEUE) == 20
    name = f"invalidator publisher shop @{os.uname().nodename} [{os.getpid()}]"
    assert [name] == await named_connections(broker, vhost)


async def named_connections(broker: Broker, vhost: str) -> list[str]:
    """Return the publishers' names, once the management API knows any."""
    while True:
        found = await asyncio.to_thread(broker.api, "GET", f"/vhosts/{vhost.rpartition('/')[2]}/connections")
        names = [one["client_properties"].get("connection_name", "") for one in found]
        if ours := [name for name in names if name.startswith("invalidator publisher")]:
            return ours
        await asyncio.sleep(0.1)


async def test_many_publish_at_once_and_nothing_is_lost(made: Make, shop: Publishing, vhost: str) -> None:
    publisher = made(vhost)
    await asyncio.gather(*(publisher.publish(data={"id": number}) for number in range(300)))
    ids = [json.loads(message.body)["id"] for message in await shop.take(QUEUE)]
    assert sorted(ids) == list(range(300))


async def test_an_event_that_no_worker_could_read_is_refused_before_it_is_sent(
    made: Make, shop: Publishing, vhost: str
) -> None:
    with pytest.raises(PoisonError):
        await made(vhost).publish(data={"id": object()})
    assert await shop.ready(QUEUE) == 0


async def test_without_a_queue_the_error_says_that_nothing_was_stored_and_the_next_publish_works(
    made: Make, vhost: str, broker: Broker
) -> None:
    publisher = made(vhost)
    with pytest.raises(UnroutableError, match="nothing stored"):
        await publisher.publish()  # there is no exchange
    await declare(vhost)
    async with publishing(vhost) as shop, shop.connection.channel() as channel:
        queue = await channel.declare_queue(QUEUE, passive=True)
        await queue.unbind("product.updates", routing_key="")
        for _ in range(2):
            with pytest.raises(UnroutableError, match="no queue is bound"):
                await publisher.publish()
        await queue.bind("product.updates", routing_key="")
        await publisher.publish()
        assert await shop.ready(QUEUE) == 1


async def test_without_a_broker_the_error_says_that_nothing_went_out(made: Make) -> None:
    with pytest.raises(UnreachableError, match="no broker answers") as raised:
        await made(f"amqp://guest:guest@127.0.0.1:{free_port()}/").publish()
    assert "127.0.0.1" in str(raised.value)
    assert "guest:guest" not in str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [("guest:guest", "guest:wrong", "wrong user or password"), ("/test-", "/no-such-", "not found")],
)
async def test_a_refusal_is_no_outage(made: Make, vhost: str, old: str, new: str, says: str) -> None:
    with pytest.raises(RefusedError, match=says) as raised:
        await made(vhost.replace(old, new)).publish()
    assert "wrong@" not in str(raised.value)


async def test_a_user_without_the_permission_to_publish_is_refused(
    made: Make, shop: Publishing, vhost: str, broker: Broker
) -> None:
    name = vhost.rpartition("/")[2]
    broker.api("PUT", f"/users/{name}", {"password": "x", "tags": ""})
    broker.api("PUT", f"/permissions/{name}/{name}", {"configure": "^$", "write": "^other$", "read": "^$"})
    try:
        with pytest.raises(RefusedError, match="set_permissions"):
            await made(vhost.replace("guest:guest", f"{name}:x")).publish()
    finally:
        broker.api("DELETE", f"/users/{name}")
    assert await shop.ready(QUEUE) == 0


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


# --- Many ------------------------------------------------------------------------------------------------------------


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


# --- Only in threads -------------------------------------------------------------------------------------------------


def test_a_forked_process_connects_again_and_leaves_its_parents_connection_alone(shop: Publishing, vhost: str) -> None:
    command = [sys.executable, "-c", FORKING, vhost]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "same connection\n"), done.stderr


#: In a process of its own: a test runner has threads, which a fork would lose.
FORKING = """
import os, sys
from invalidator.app import Publisher

with Publisher(sys.argv[1], timeout=20.0) as publisher:
    publisher.publish("product_updated", {"id": "of the parent"})
    [(_, connection)] = publisher._idle
    child = os.fork()
    publisher.publish("product_updated", {"id": "of both"})
    if child:
        assert os.waitpid(child, 0)[1] == 0
        publisher.publish("product_updated", {"id": "of the parent"})
        assert [connection] == [kept for _, kept in publisher._idle]
        print("same connection")
    else:
        assert connection not in [kept for _, kept in publisher._idle]
"""


async def test_a_connection_that_died_meanwhile_is_known_to_be_dead_so_the_error_is_no_maybe(
    shop: Publishing, vhost: str, broker: Broker, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    publisher = Threads(vhost.replace(broker.address, way.address), timeout=20.0)
    await publisher.publish()
    await way.refuse()
    await way.reset()
    with pytest.raises(UnreachableError):
        await publisher.publish()
    assert await shop.ready(QUEUE) == 1


def test_a_connection_idle_for_long_is_replaced_before_it_is_used(
    shop: Publishing, vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher(vhost, timeout=20.0) as publisher:
        publisher.publish("product_updated", EVENT)
        ((_, connection),) = publisher._idle
        publisher._idle = [(time.monotonic() - 3600, connection)]
        publisher.publish("product_updated", EVENT)
        assert connection not in [kept for _, kept in publisher._idle]
        assert connection._connection.is_closed


def test_threads_have_as_many_connections_as_publish_at_once(shop: Publishing, vhost: str) -> None:
    with Publisher(vhost, timeout=20.0) as publisher:
        together = threading.Barrier(4)

        def publish_some() -> None:
            together.wait()
            for _ in range(25):
                publisher.publish("product_updated", EVENT)

        threads = [threading.Thread(target=publish_some) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 <= len(publisher._idle) <= 4
