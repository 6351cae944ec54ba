"""A gap heals from the log: what was published while no queue stored it is evicted, and nothing else is flushed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from invalidator.broker.connection import close, connect
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remembered_gaps
from invalidator.operate.diagnosis.check import check
from invalidator.operate.diagnosis.status import status
from invalidator.operate.event_log.history import history
from invalidator.settings import EventLogSettings, Settings
from invalidator.worker.worker import Worker
from tests.integration.aftermath import Trial, held
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.shop import changed, eventually, settings_for, worker_process
from tests.servers import Broker

BACK_WITHIN = 30.0
#: Of no event, so only a flush would remove it.
BYSTANDER = "product:bystander"


def logged(url: str, nodes: Any, *, rate: int = 20_000, **more: Any) -> Settings:
    """Return settings of a worker that waits for a deleted queue until somebody else declares it."""
    broker = {"declare": "passive"} | more.pop("broker", {})
    return settings_for(url, nodes, broker=broker, event_log=EventLogSettings(enabled=True, rate=rate), **more)


async def delete(broker: Broker, shop: Trial, queue: str, what: str = "") -> None:
    """Delete a queue, or only its contents."""
    vhost = shop.url.rpartition("/")[2]
    await asyncio.to_thread(broker.api, "DELETE", f"/queues/{vhost}/{queue}{what}")


async def remembered(shop: Trial) -> list[Gap]:
    connection = await connect(shop.settings.broker, name="test")
    gaps = await remembered_gaps(connection, shop.topology)
    await close(connection)
    return gaps


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BACK_WITHIN):
        while not await condition():
            await asyncio.sleep(0.05)


async def healed(shop: Trial) -> Gap:
    """Wait until a gap is healed or not covered, and return it."""

    found = list[Gap]()

    async def is_over() -> bool:
        found.extend(gap for gap in await remembered(shop) if gap.healing)
        return bool(found)

    await until(is_over)
    return found[0]


@asynccontextmanager
async def trial(settings: Settings, nodes: Any) -> AsyncIterator[tuple[Trial, Worker]]:
    """Yield a trial whose worker has settled a first event; in the end nothing was flushed."""
    shop = Trial(settings, nodes)
    await shop.declare()
    for node in nodes:
        node.set(BYSTANDER, b"fresh")
    async with shop.working(within=BACK_WITHIN) as worker:
        await shop.is_logging()
        shop.fill("first")
        await shop.publish("first")
        await eventually(shop.is_gone)
        yield shop, worker
    assert all(held(node, [BYSTANDER]) for node in nodes)


async def test_what_was_published_while_the_queue_was_deleted_is_evicted(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    nodes = [memcached(), memcached()]
    async with trial(logged(vhost, nodes), nodes) as (shop, worker):
        await delete(broker, shop, shop.topology.queue)
        await eventually(lambda: "invalidator topology declare" in worker.status())
        shop.fill(*range(200))
        await shop.publish(*range(200))
        await shop.declare()
        gap = await healed(shop)
        assert shop.is_gone(*range(200))
        (cluster,) = (await status(shop.settings)).clusters
        assert ([], [gap.story]) == (cluster.gaps, cluster.healed)
        past = await history(shop.settings, "product:7", datetime.now(UTC) - timedelta(hours=1))
        assert {"event", "healed", "gap"} == {entry.what for entry in past.entries}
    assert gap.is_healed, gap
    assert gap.healing
    assert 200 <= gap.healing.events


async def test_a_worker_makes_its_deleted_queue_again_and_heals_it(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(logged(vhost, [node], broker={"declare": "active"}), [node]) as (shop, _):
        shop.fill(*range(50))
        await delete(broker, shop, shop.topology.queue)
        await shop.publish(*range(50))
        assert (await healed(shop)).is_healed


async def test_a_queue_that_expired_while_no_worker_was_there_heals_when_one_is_back(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    shop = Trial(logged(vhost, [node], broker={"declare": "active"}), [node])
    await shop.declare()
    async with shop.working():

        async def is_stored() -> bool:
            return await shop.ready(shop.topology.position) > 0

        await until(is_stored)
    shop.fill(*range(40))
    await shop.publish(*range(20))
    await delete(broker, shop, shop.topology.queue)
    await shop.publish(*range(20, 40))
    async with shop.working():
        assert (await healed(shop)).is_healed


async def test_a_queue_deleted_and_made_again_at_once_by_somebody_else_heals(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(logged(vhost, [node]), [node]) as (shop, _):
        shop.fill(*range(20))
        await delete(broker, shop, shop.topology.queue)
        await shop.publish(*range(10))
        await shop.declare()
        await shop.publish(*range(10, 20))
        assert (await healed(shop)).is_healed


async def test_a_queue_that_was_purged_heals(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    small: dict[str, Any] = {
        "broker": {"prefetch": 10},
        "worker": {"batch_events": 10},
        "memcached": {"deadline": 60.0},
    }
    async with trial(logged(vhost, {"c1": between.address}, **small), [node]) as (shop, worker):
        between.requests.hold()
        shop.fill(*range(100))
        await shop.publish(*range(100))
        await shop.becomes_ready(90)
        checked = worker._consumer._watch.checks
        await eventually(lambda: worker._consumer._watch.checks > checked + 1)
        await delete(broker, shop, shop.topology.queue, "/contents")
        between.requests.release()
        gap = await healed(shop)
    assert "vanished from the queue: it was purged" in gap.reason
    assert gap.is_healed, gap


async def test_a_parking_queue_deleted_while_its_node_is_down_heals(
    broker: Broker, vhost: str, memcached: MemcachedFactory, proxy: ProxyFactory
) -> None:
    node = memcached()
    between = await proxy(node.address)
    settings = logged(vhost, {"c1": between.address}, memcached={"deadline": 0.5}, broker={"declare": "active"})
    async with trial(settings, [node]) as (shop, worker):
        await eventually(lambda: "c1" in worker._drainer._empty_at)
        between.requests.hold()
        shop.fill(*range(20))
        await shop.publish(*range(20))
        await shop.is_parked("c1")
        await delete(broker, shop, shop.topology.parked("c1"))
        gap = await healed(shop)
        between.requests.release()
        await eventually(shop.is_gone)
    assert (True, "the parking queue of c1 was deleted") == (gap.is_healed, gap.reason)


async def test_a_worker_killed_while_it_heals_loses_nothing_because_the_next_one_goes_on(
    broker: Broker, vhost: str, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    node = memcached()
    slow = logged(vhost, [node], rate=5, broker={"declare": "active"})
    shop = Trial(slow, [node])
    await shop.declare()
    with worker_process(slow, tmp_path) as process:

        async def is_stored() -> bool:
            return await shop.ready(shop.topology.position) > 0

        await until(is_stored)
        shop.fill(*range(100))
        process.send_signal(signal.SIGSTOP)
        await delete(broker, shop, shop.topology.queue)
        await shop.publish(*range(100))
        process.send_signal(signal.SIGCONT)
        await eventually(lambda: not held(node, ["product:0"]))
        (shown,) = [each for each in await check(slow, source="test") if each.what == "gaps"]
        assert ("note", True) == (shown.level, shown.text.startswith("healing the gap since "))
        process.kill()
        process.wait()
    assert held(node, ["product:99"])
    assert [] == [gap for gap in await remembered(shop) if gap.healing]
    shop.settings = changed(slow, "event_log", rate=20_000)
    async with shop.working():
        assert (await healed(shop)).is_healed


async def test_a_gap_older_than_the_log_is_not_covered_and_what_the_log_has_is_evicted(
    broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    node = memcached()
    async with trial(logged(vhost, [node]), [node]) as (shop, worker):
        await delete(broker, shop, shop.topology.queue)
        await delete(broker, shop, shop.topology.log)
        await eventually(lambda: "invalidator topology declare" in worker.status())
        shop.fill("missed", "logged")
        await shop.declare()
        await delete(broker, shop, shop.topology.queue)
        await shop.publish("logged")
        await shop.declare()
        gap = await healed(shop)
        assert shop.is_gone("logged")
        assert not shop.is_gone("missed")
        await shop.publish("missed")
    assert not gap.is_healed
    assert "not covered before" in gap.story
