"""The worker is killed between an eviction and its acknowledgement, again and again, or by a part of itself."""

import asyncio
import random
import subprocess
import time
from pathlib import Path

import pytest

from invalidator.errors import InvalidatorError
from invalidator.worker.worker import Worker
from tests.integration.aftermath import Trial
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import eventually, settings_for, worker_process
from tests.servers import Broker

pytestmark = pytest.mark.usefixtures("intake")


async def consuming(process: "subprocess.Popen[str]") -> None:
    """Wait until a worker's log says that it consumes."""
    assert process.stderr
    async with asyncio.timeout(60):
        while "consuming" not in await asyncio.to_thread(process.stderr.readline):
            pass


async def test_what_was_evicted_and_not_acknowledged_when_the_worker_was_killed_is_evicted_again(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory, tmp_path: Path
) -> None:
    node, between = memcached(), await proxy(broker.address)
    shop = Trial(settings_for(vhost, [node]), [node])
    with worker_process(settings_for(vhost.replace(broker.address, between.address), [node]), tmp_path) as process:
        await consuming(process)
        between.requests.hold()
        shop.fill(*range(10))
        await shop.publish(*range(10))
        await eventually(shop.is_gone)
        process.kill()
    assert await shop.ready() == 0
    await between.reset()
    shop.fill(*range(10))
    async with shop.working():
        pass


async def test_events_that_outlive_too_many_workers_are_dead_letters_and_their_replay_evicts_them(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory, tmp_path: Path
) -> None:
    """At each kill every message held counts one delivery more, even a good one."""
    node = memcached()
    between = await proxy(node.address)
    limit = {"pattern": r"^invalidator\.eu$", "definition": {"delivery-limit": 2}, "apply-to": "queues"}
    broker.api("PUT", f"/policies/{vhost.rpartition('/')[2]}/limit", limit)
    shop = Trial(settings_for(vhost, {"c1": between.address}, memcached={"deadline": 60.0}), [node])
    await shop.declare()
    shop.fill(*range(10))
    await shop.publish(*range(10))
    between.requests.hold()
    for _ in range(3):
        with worker_process(shop.settings, tmp_path) as process:
            await consuming(process)
            await shop.becomes_ready(0)
            process.kill()
    await shop.becomes_ready(10, shop.topology.dead)
    between.requests.release()
    async with shop.working():
        await shop.replay()


async def test_a_jumping_clock_stalls_nothing(
    vhost: str, memcached: MemcachedFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are parked for a hung node and drained when it answers, while the time of day jumps by hours and days."""
    node = memcached()
    real, chance = time.time, random.Random(7)
    monkeypatch.setattr(time, "time", lambda: real() + chance.uniform(-1e6, 1e6))
    shop = Trial(settings_for(vhost, [node], memcached={"deadline": 0.3}), [node])
    async with shop.working(within=10.0):
        shop.fill(*range(10))
        node.pause()
        await shop.publish(*range(10))
        await shop.is_parked("c1")
        node.resume()


async def test_a_part_that_ends_by_itself_is_an_error(
    vhost: str, memcached: MemcachedFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gives_up() -> None:
        raise asyncio.CancelledError

    worker = Worker(settings_for(vhost, [memcached()]))
    monkeypatch.setattr(worker._drainer, "run", gives_up)
    with pytest.raises(InvalidatorError, match="this worker's drainer ended by itself"):
        await worker.run(asyncio.Event())


async def test_a_worker_stopped_while_it_connects_gives_back_what_it_is_sent_and_ends(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node, between = memcached(), await proxy(broker.address)
    shop = Trial(settings_for(vhost, [node]), [node])
    await shop.declare()
    await shop.publish(1)
    stopping = asyncio.Event()
    between.replies.hold()
    running = asyncio.create_task(
        Worker(settings_for(vhost.replace(broker.address, between.address), [node])).run(stopping)
    )
    await eventually(lambda: between.accepted)
    stopping.set()
    await asyncio.sleep(0)
    between.replies.release()
    async with asyncio.timeout(60):
        await running
    await shop.becomes_ready(1)
    shop.fill(1)
    async with shop.working():
        pass
