"""Faults that take minutes to provoke, or a hundred trials to believe: `pytest -m long`."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from invalidator.worker.worker import Worker
from tests.integration.aftermath import Trial, gaps, trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, settings_for
from tests.integration.test_faults_of_the_queue import CANCEL_CONSUMERS, delete_queue, vhost_of
from tests.servers import Broker

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

#: Trials of each kind of recovery, and the seconds that each may take once there is something to recover to.
TRIALS = 25
BACK_WITHIN = 10.0
#: Megabytes, between one million events and ten.
MEMORY_MAY_GROW = 2.0
ROOT = Path(__file__).parents[2]
#: Seconds within which a broker that is silent is found to be, at a heartbeat of 10 s.
FOUND_WITHIN = 35.0


async def test_a_broker_that_hangs_is_found_within_35_seconds(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(settings_for(own_vhost, [node]), [node], within=BACK_WITHIN) as (shop, worker):
        shop.fill(1)
        own_broker.pause()
        try:
            await eventually(lambda: worker.status().startswith("waiting for the broker"), within=FOUND_WITHIN)
        finally:
            own_broker.resume()
        await shop.publish(1)


async def test_the_worker_is_back_each_time_the_broker_is_killed_with_a_batch_in_flight(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    gate = await proxy(node.address)
    settings = settings_for(own_vhost, {"c1": gate.address}, memcached={"deadline": 60.0}, broker={"prefetch": 20})
    async with trial(settings, [node]) as (shop, worker):
        for number in range(TRIALS):
            products = range(number * 50, number * 50 + 50)
            gate.replies.hold()
            shop.fill(*products)
            await shop.publish(*products)
            await eventually(lambda: shop.is_gone(products[0]))  # noqa: B023
            own_broker.kill()
            await eventually(lambda: worker.status().startswith("waiting for the broker"))
            shop.fill(*products)
            gate.replies.release()
            await asyncio.to_thread(own_broker.start)
            await eventually(lambda: worker.status() == "consuming", within=BACK_WITHIN)
            await eventually(shop.is_gone)


async def made_again(broker: Broker, shop: Trial, chance: random.Random) -> None:
    await delete_queue(broker, shop.url)
    await asyncio.sleep(chance.choice((0.0, chance.uniform(0.0, 3.0))))  # now and then while the worker waits for it
    await shop.declare()


async def closed(broker: Broker, shop: Trial, chance: random.Random) -> None:
    await asyncio.to_thread(broker.ctl, "close_all_connections", "--vhost", vhost_of(shop.url), "maintenance")


async def cancelled(broker: Broker, shop: Trial, chance: random.Random) -> None:
    await asyncio.to_thread(broker.ctl, "eval", CANCEL_CONSUMERS % vhost_of(shop.url))


@pytest.mark.parametrize("happens", [made_again, closed, cancelled])
async def test_the_worker_is_back_within_ten_seconds_every_time(
    happens: Callable[[Broker, Trial, random.Random], Awaitable[None]],
    broker: Broker,
    vhost: str,
    memcached: MemcachedFactory,
) -> None:
    node, chance = memcached(), random.Random(25)
    shop = Trial(settings_for(vhost, [node], broker={"declare": "passive"}), [node])
    await shop.declare()
    async with shop.working() as worker:
        for number in range(TRIALS):
            before = gaps()
            await happens(broker, shop, chance)
            await back(shop, worker, number)
            assert (gaps() > before) == (happens is not closed)


async def back(shop: Trial, worker: Worker, number: int) -> None:
    """Wait until an event published now is evicted."""
    answering = time.monotonic()
    shop.fill(number)
    await shop.publish(number)
    await eventually(lambda: shop.is_gone() and worker.status() == "consuming", within=BACK_WITHIN)
    assert time.monotonic() - answering < BACK_WITHIN


async def test_memory_after_ten_million_events_is_as_after_a_million() -> None:
    soaking = await asyncio.create_subprocess_exec(sys.executable, str(ROOT / "tests/benchmarks/run.py"), "--soak")
    assert await soaking.wait() == 0
    memory = json.loads((ROOT / ".dev/bench/soak.json").read_text())["soak"]
    assert memory["events"] == 10_000_000
    assert memory["late"] - memory["early"] <= MEMORY_MAY_GROW
