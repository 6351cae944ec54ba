"""Losses before the log: what publishers had confirmed and the log does not hold is named within seconds."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest

from invalidator.app.publish.async_publisher import AsyncPublisher
from invalidator.app.publish.publisher import Publisher
from invalidator.errors import UnroutableError
from invalidator.events.event import Event
from invalidator.operate.diagnosis.status import status
from invalidator.runtime import metrics
from invalidator.settings import EventLogSettings, Settings
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.liar import Liar
from tests.integration.shop import eventually, publishing, settings_for, worker_process
from tests.integration.test_healing import remembered
from tests.servers import Broker

LOG = "invalidator.log"
#: Seconds in which a loss is to be named, and as many again for a busy machine.
NAMED_WITHIN = 10.0
#: A publisher in a process of its own: one event after another until it is killed, or the given number.
SCRIPT = """
import sys
from invalidator.app.publish.publisher import Publisher
publisher = Publisher(sys.argv[1], app_id="shop", timeout=10.0)
for id in range(int(sys.argv[2])):
    publisher.publish("product_updated", {"id": id})
    print(id, flush=True)
sys.stdin.read()
"""
#: One that publishes as many as it can at a time.
MANY = """
import sys
from invalidator.app.publish.publisher import Publisher
from invalidator.events.event import Event
def events():
    for id in range(int(sys.argv[2])):
        yield Event("product_updated", {"id": id})
        if id % 100 == 0:
            print(id, flush=True)
with Publisher(sys.argv[1], app_id="shop", timeout=30.0) as publisher:
    print(publisher.publish_many(events()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def shop(vhost: str) -> Trial:
    return Trial(logged(vhost), [])


def logged(url: str, *, rate: int = 20_000) -> Settings:
    """Return settings without events that evict anything, so that no node is needed."""
    log = EventLogSettings(enabled=True, rate=rate)
    return msgspec.structs.replace(settings_for(url, {"c1": "127.0.0.1:1"}, event_log=log), rule=[])


@asynccontextmanager
async def tallying(shop: Trial, folder: Path) -> AsyncIterator["subprocess.Popen[str]"]:
    """Run a worker in a process of its own, and yield it once it judges statements; kill it in the end."""
    before = await marks(shop)
    with worker_process(shop.settings, folder) as worker:
        async with asyncio.timeout(30):
            while await marks(shop) < before + 2:  # the healer's, and the tally's
                await asyncio.sleep(0.05)
        yield worker


async def marks(shop: Trial) -> int:
    async with publishing(shop.url) as connection:
        return await connection.ready(LOG)


async def missing(shop: Trial, count: int = 1) -> list[str]:
    """Wait until that many losses are named, and return them."""
    async with asyncio.timeout(NAMED_WITHIN):
        while len(gaps := await remembered(shop)) < count:  # fewer, while a worker reads them, too
            await asyncio.sleep(0.05)
    return [gap.reason for gap in gaps]


async def binds(broker: Broker, shop: Trial, method: str, *queues: str) -> None:
    """Bind queues to the exchange of the events, or unbind them."""
    for queue in queues:
        path = f"/bindings/{shop.url.rpartition('/')[2]}/e/product.updates/q/{queue}"
        await asyncio.to_thread(broker.api, method, path if method == "POST" else f"{path}/~", {})


@contextmanager
def publisher_process(url: str, events: int, script: str = SCRIPT) -> Iterator["subprocess.Popen[str]"]:
    """Run a publisher, and kill it in the end."""
    command = [sys.executable, "-c", script, url, str(events)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def published(process: "subprocess.Popen[str]", last: int) -> None:
    """Wait until a publisher has an event confirmed."""
    assert process.stdout
    while int(await asyncio.to_thread(process.stdout.readline)) < last:
        pass


async def test_events_published_while_the_log_is_not_bound_are_named_and_so_are_publishers_without_numbers(
    shop: Trial, broker: Broker, tmp_path: Path
) -> None:
    await shop.declare()
    async with tallying(shop, tmp_path), AsyncPublisher(shop.url, app_id="shop", timeout=5.0) as publisher:
        await publisher.publish("product_updated", {"id": 1})
        await binds(broker, shop, "DELETE", LOG)
        for id in range(2, 5):
            await publisher.publish("product_updated", {"id": id})
        (reason,) = await missing(shop)  # although the publisher is open still, and publishes nothing more
        await binds(broker, shop, "POST", LOG)
        async with publishing(shop.url) as foreign:
            await foreign.raw(b'{"type": "product_updated", "id": 1}', app_id="debezium")

        async with asyncio.timeout(NAMED_WITHIN):
            (cluster,) = (await status(shop.settings)).clusters
            while not (cluster.gaps and cluster.unnumbered):
                (cluster,) = (await status(shop.settings)).clusters
    assert ["debezium"] == cluster.unnumbered
    assert reason.startswith('3 events of "invalidator publisher shop @')
    assert reason.endswith("were confirmed and are not in the log: numbers 2 to 4")
    assert reason in cluster.gaps[0]


async def test_events_that_a_lying_broker_confirmed_are_named_the_last_ones_too(
    shop: Trial, broker: Broker, proxy: ProxyFactory, tmp_path: Path
) -> None:
    await shop.declare()
    between = await proxy(broker.address)
    liar, url = Liar(between), shop.url.replace(broker.address, between.address)
    async with tallying(shop, tmp_path):
        with Publisher(url, app_id="shop", timeout=5.0) as publisher:

            async def publish(count: int, *, lying: bool) -> None:
                liar.is_lying = lying
                for id in range(count):
                    await asyncio.to_thread(publisher.publish, "product_updated", {"id": id})

            await publish(3, lying=False)
            await publish(2, lying=True)
            await publish(1, lying=False)
            assert "numbers 4 to 5" in (await missing(shop))[0]
            await publish(1, lying=True)
            assert "number 7" in (await missing(shop, 2))[1]  # although nothing was published after it
            await asyncio.to_thread(publisher.publish_many, [Event("product_updated", {"id": id}) for id in range(9)])
            assert 10 == liar.dropped - 2
            assert "numbers 8 to 16" in (await missing(shop, 3))[2]


@pytest.mark.parametrize(
    ("lives", "events"),
    [(12, 500), pytest.param(500, 20_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
async def test_publishers_that_are_killed_at_any_moment_raise_no_alarm_and_a_loss_among_them_does(
    lives: int, events: int, shop: Trial, broker: Broker, tmp_path: Path
) -> None:
    """Run publishers, four at a time, three with thousands of events in flight; kill them; lose some in the end."""
    shop = Trial(logged(shop.url, rate=1_000_000), [])
    await shop.declare()
    chance = random.Random(16)

    async def live(number: int) -> None:
        is_slow = number % 4 == 0  # one event after another
        count = min(events, 100) if is_slow else events
        with publisher_process(shop.url, count, SCRIPT if is_slow else MANY) as publisher:
            await published(publisher, count - 1 if number % 3 == 0 else int(chance.random() * count))

    async with tallying(shop, tmp_path):
        for first in range(0, lives, 4):
            await asyncio.gather(*map(live, range(first, min(first + 4, lives))))
        await binds(broker, shop, "DELETE", LOG)
        with publisher_process(shop.url, 3) as publisher:
            await published(publisher, 2)
            named = await missing(shop)
    assert ["numbers 1 to 3"] == [reason.rpartition(": ")[2] for reason in named]


async def test_events_that_came_back_or_that_the_broker_would_not_store_are_not_missing(
    shop: Trial, broker: Broker, tmp_path: Path
) -> None:
    await shop.declare()
    async with tallying(shop, tmp_path), AsyncPublisher(shop.url, app_id="shop", timeout=5.0) as asynchronous:
        with Publisher(shop.url, app_id="shop", timeout=5.0) as publisher:
            for bound in (True, False, True):
                await binds(broker, shop, "POST" if bound else "DELETE", LOG, shop.topology.queue)
                for publish in (asynchronous.publish, lambda *args: asyncio.to_thread(publisher.publish, *args)):
                    if bound:
                        await publish("product_updated", {"id": 1})
                    else:
                        with pytest.raises(UnroutableError):
                            await publish("product_updated", {"id": 1})
        await binds(broker, shop, "DELETE", LOG)
        await asynchronous.publish("product_updated", {"id": 1})
        assert ["number 4"] == [reason.rpartition(": ")[2] for reason in await missing(shop)]


async def test_a_second_worker_goes_on_where_the_first_one_was_killed(
    shop: Trial, broker: Broker, tmp_path: Path
) -> None:
    await shop.declare()
    async with AsyncPublisher(shop.url, app_id="shop", timeout=5.0) as publisher:
        async with tallying(shop, tmp_path) as first:
            await binds(broker, shop, "DELETE", LOG)
            await publisher.publish("product_updated", {"id": 1})
            await missing(shop)
            first.kill()
        await publisher.publish("product_updated", {"id": 2})
        await asyncio.sleep(2)  # it is stated while nobody reads the log
        await binds(broker, shop, "POST", LOG)
        await publisher.publish("product_updated", {"id": 3})
        async with tallying(shop, tmp_path):
            named = await missing(shop, 2)
    assert ["number 1", "number 2"] == [reason.rpartition(": ")[2] for reason in named]


@pytest.mark.parametrize("declares", ["active", pytest.param("passive", marks=pytest.mark.long)])
async def test_a_queue_that_lost_its_binding_is_noticed_and_what_it_missed_is_evicted(
    declares: str, broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    settings = settings_for(vhost, [node], broker={"declare": declares}, event_log=EventLogSettings(enabled=True))
    shop = Trial(settings, [node])
    await shop.declare()
    async with shop.working():
        async with asyncio.timeout(30):
            while await marks(shop) < 2:
                await asyncio.sleep(0.05)
        await asyncio.sleep(3)  # what comes to the log now has not arrived before
        await binds(broker, shop, "DELETE", shop.topology.queue)
        shop.fill(*range(20))
        await shop.publish(*range(20))
        if declares == "passive":
            await eventually(lambda: metrics.BOUND._value.get() == 0, within=NAMED_WITHIN)
            await shop.declare()
            await shop.publish("another")
        assert "the queue was not bound to the exchange" in await missing(shop)
        await eventually(shop.is_gone, within=NAMED_WITHIN)
        await eventually(lambda: metrics.BOUND._value.get() == 1, within=NAMED_WITHIN)
