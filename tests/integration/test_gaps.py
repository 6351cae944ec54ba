"""Gaps that outlive workers: stored in a queue of their own, read without loss, cleared by a flush."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import aio_pika
import pytest

from invalidator.broker.connection import Connection, close, connect
from invalidator.broker.declare import declare
from invalidator.broker.errors import AlarmError
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import UNREADABLE, clear_gaps, remember_gap, remembered_gaps, stored_gaps
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.operate.topology import declared
from tests.integration.aftermath import alarm
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import eventually, publishing, settings_for, working
from tests.servers import Broker

NINE = datetime(2026, 5, 17, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST, SECOND = Gap(NINE, NINE + HOUR, "deleted"), Gap(None, NINE + 3 * HOUR, "purged")


class Cluster:
    """A declared cluster, a publisher, and a connection that reads."""

    def __init__(self, vhost: str, topology: Topology, connection: Connection, publisher: ConfirmedPublisher) -> None:
        self.vhost = vhost
        self.topology = topology
        self.connection = connection
        self._publisher = publisher

    async def remember(self, *gaps: Gap) -> None:
        for gap in gaps:
            await remember_gap(self._publisher, self.topology, gap)

    def lose(self, broker: Broker, queue: str) -> None:
        broker.api("DELETE", f"/queues/{self.vhost}/{queue}")

    async def remembered(self, moment: Callable[[], Awaitable[None]] | None = None) -> list[Gap]:
        """Read the gaps twice; `moment` is called between the two."""
        return await remembered_gaps(self.connection, self.topology, moment=moment or partial(asyncio.sleep, 0))


@pytest.fixture
async def cluster(vhost: str) -> AsyncIterator[Cluster]:
    """Yield a cluster that is declared and has no worker."""
    settings = settings_for(vhost, {"c1": "127.0.0.1:11211"})
    topology, connection = Topology.of(settings), await connect(settings.broker, name="test")
    publisher = ConfirmedPublisher(lambda: settings.broker, name="test")
    await declare(connection, topology)
    yield Cluster(vhost.rpartition("/")[2], topology, connection, publisher)
    await publisher.close()
    await close(connection)


async def test_gaps_are_read_again_and_again_in_order(cluster: Cluster) -> None:
    assert [] == await cluster.remembered()
    await cluster.remember(SECOND, FIRST)
    for _ in range(25):
        assert [FIRST, SECOND] == await cluster.remembered()


async def test_a_gap_that_somebody_else_reads_at_the_moment_is_seen(cluster: Cluster) -> None:
    await cluster.remember(FIRST, SECOND)
    async with AsyncExitStack() as others:
        channel, _ = await others.enter_async_context(stored_gaps(cluster.connection, cluster.topology))
        assert [FIRST, SECOND] == await cluster.remembered(moment=others.aclose)
        assert channel.is_closed
    looking = AsyncExitStack()

    async def look() -> None:
        await looking.enter_async_context(stored_gaps(cluster.connection, cluster.topology))

    assert [FIRST, SECOND] == await cluster.remembered(moment=look)
    await looking.aclose()


async def test_one_gap_that_several_workers_report_is_one(cluster: Cluster) -> None:
    later = Gap(NINE + HOUR / 2, NINE + 2 * HOUR, "deleted")
    another = Gap(NINE, NINE + HOUR, "purged")
    await cluster.remember(FIRST, later, another)
    assert {Gap(NINE, NINE + 2 * HOUR, "deleted"), another} == set(await cluster.remembered())


async def test_a_flush_clears_the_gaps_that_had_ended_when_it_began(cluster: Cluster) -> None:
    await cluster.remember(FIRST, SECOND)
    assert 1 == await clear_gaps(cluster.connection, cluster.topology, until=NINE + 2 * HOUR)
    assert [SECOND] == await cluster.remembered()


async def test_a_message_that_is_not_a_gap_is_shown_as_unreadable_and_can_be_cleared(
    cluster: Cluster, vhost: str
) -> None:
    async with publishing(vhost) as shop, shop.connection.channel() as channel:
        await channel.default_exchange.publish(aio_pika.Message(b"\xff"), cluster.topology.gaps)
    assert [UNREADABLE] == await cluster.remembered()
    assert 1 == await clear_gaps(cluster.connection, cluster.topology, until=NINE)


async def test_without_its_queue_no_gap_is_remembered(cluster: Cluster, broker: Broker, vhost: str) -> None:
    broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/{cluster.topology.gaps}")
    assert [] == await cluster.remembered()
    assert 0 == await clear_gaps(cluster.connection, cluster.topology, until=NINE)


async def test_gaps_of_one_reason_without_a_known_beginning_are_one(cluster: Cluster) -> None:
    await cluster.remember(Gap(None, NINE, "deleted"), Gap(None, NINE + HOUR, "deleted"), FIRST)
    assert [Gap(None, NINE + HOUR, "deleted")] == await cluster.remembered()


async def test_a_gap_is_remembered_when_its_worker_is_gone(
    cluster: Cluster, broker: Broker, vhost: str, memcached: MemcachedFactory
) -> None:
    settings = settings_for(vhost, [memcached()])
    name = vhost.rpartition("/")[2]
    async with working(settings), asyncio.timeout(60):
        broker.api("DELETE", f"/queues/{name}/{cluster.topology.queue}")
        while not await cluster.remembered():
            await asyncio.sleep(0.05)
    [gap] = await cluster.remembered()
    assert gap.since
    assert gap.since <= gap.until


async def test_a_gap_that_is_found_in_an_alarm_is_seen_by_the_next_worker(
    own_broker: Broker, own_vhost: str, memcached: MemcachedFactory
) -> None:
    settings = settings_for(own_vhost, [memcached()], broker={"publish_timeout": 0.5})
    topology = Topology.of(settings)
    async with alarm(own_broker, "memory"), working(settings) as worker, asyncio.timeout(60):
        own_broker.api("DELETE", f"/queues/{own_vhost.rpartition('/')[2]}/{topology.queue}")
        await eventually(lambda: "its gap must be stored first" in worker.status())
    connection = await connect(settings.broker, name="test")
    async with working(settings):
        gaps = await remembered_gaps(connection, topology)
    # The first worker's may be there too: the broker reads what it was sent in the alarm once that is over.
    assert (None, "the queue was not there") in [(gap.since, gap.reason) for gap in gaps]
    await close(connection)


class TestTopologyDeclare:
    """`invalidator topology declare` while no worker runs."""

    async def test_a_queue_that_it_makes_again_is_a_gap(self, cluster: Cluster, broker: Broker, vhost: str) -> None:
        cluster.lose(broker, cluster.topology.queue)
        gap = await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
        assert gap
        assert [gap] == await cluster.remembered()

    async def test_a_lost_queue_of_gaps_is_made_before_the_gap_is_stored(
        self, cluster: Cluster, broker: Broker, vhost: str
    ) -> None:
        cluster.lose(broker, cluster.topology.queue)
        cluster.lose(broker, cluster.topology.gaps)
        gap = await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
        assert [gap] == await cluster.remembered()

    async def test_neither_the_first_time_nor_the_second_is_a_gap(self, vhost: str) -> None:
        settings = settings_for(vhost, {"c1": "127.0.0.1:11211"})
        assert [None, None] == [await declared(settings), await declared(settings)]

    async def test_in_an_alarm_it_makes_nothing_until_the_gap_can_be_stored(
        self, own_broker: Broker, own_vhost: str
    ) -> None:
        settings = settings_for(own_vhost, {"c1": "127.0.0.1:11211"}, broker={"publish_timeout": 0.5})
        await declared(settings)
        own_broker.api("DELETE", f"/queues/{own_vhost.rpartition('/')[2]}/{Topology.of(settings).queue}")
        async with alarm(own_broker, "memory"):
            with pytest.raises(AlarmError):
                await declared(settings)
        assert await declared(settings)
