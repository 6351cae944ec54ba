"""Debezium's changes that come before new reads see them: the worker holds them if it may ask the primary."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psycopg
import pytest

from invalidator.app import AsyncLookAsideCache
from invalidator.settings import DebeziumSettings, EventLogSettings, RuleSettings, Secret, Settings
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.shop import Publishing, eventually, publishing, settings_for, working
from tests.servers import Broker, Memcached, Postgres, postgres_is_installed

KEY = "product:1"


class Shop:
    """One product in a database whose synchronous standby does not answer, and a cache in front of it."""

    def __init__(self, server: Postgres, node: Memcached) -> None:
        self.server = server
        self.node = node
        self.cache = AsyncLookAsideCache([node.address])
        server.sql("DROP TABLE IF EXISTS products")
        server.sql("CREATE TABLE products (id int PRIMARY KEY, price int)")
        server.sql("INSERT INTO products VALUES (1, 80)")

    def standby(self, name: str) -> None:
        self.server.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        self.server.sql("SELECT pg_reload_conf()")

    async def load(self) -> int:
        return int(self.server.sql("SELECT price FROM products"))

    async def read(self) -> int:
        return await self.cache.get_or_load(KEY, self.load, ttl=3600)

    @asynccontextmanager
    async def committing(self) -> AsyncIterator[int]:
        """Yield the number of a transaction that is committed and that no new read sees until the end."""
        self.standby("nobody")
        connection = await psycopg.AsyncConnection.connect(self.server.url())
        await connection.execute("UPDATE products SET price = 100")
        ((xid,),) = await (await connection.execute("SELECT pg_current_xact_id()::text::bigint")).fetchall()
        committing = asyncio.create_task(connection.commit())
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        await eventually(lambda: self.server.sql(waiting) == "1")
        yield xid
        self.standby("")
        await committing
        await connection.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Start a server of its own, as these tests stop it and let its commits wait."""
    require("postgresql", installed=postgres_is_installed())
    with Postgres() as server:
        yield server


@pytest.fixture
async def shop(server: Postgres, memcached: MemcachedFactory) -> AsyncIterator[Shop]:
    shop = Shop(server, memcached())
    yield shop
    shop.cache.close()
    await asyncio.sleep(0)  # the loop closes the connections in its next turn


def settings(vhost: str, shop: Shop, **debezium: Any) -> Settings:
    rule = RuleSettings(on="debezium:public.products", evict=["product:{id}"])
    made = settings_for(vhost, [shop.node], debezium=DebeziumSettings(**debezium))
    return type(made)(**{name: getattr(made, name) for name in made.__struct_fields__} | {"rule": [rule]})


async def publish(bus: Publishing, xid: int) -> None:
    source = {"connector": "postgresql", "schema": "public", "table": "products", "txId": xid}
    row = {"id": 1, "price": 100}
    await bus.raw(json.dumps({"op": "u", "before": None, "after": row, "source": source}).encode())


async def read_too_early(shop: Shop, bus: Publishing, xid: int) -> None:
    """Publish the change, and read the old row once it is evicted."""
    assert 80 == await shop.read()
    await publish(bus, xid)
    await eventually(lambda: shop.node.get(KEY) is None)
    assert 80 == await shop.read()


async def test_a_change_is_evicted_again_once_new_reads_see_it(shop: Shop, vhost: str) -> None:
    gated = settings(vhost, shop, url=Secret(shop.server.url()))
    async with working(gated), publishing(vhost) as bus:
        async with shop.committing() as xid:
            await read_too_early(shop, bus, xid)
        await eventually(lambda: shop.node.get(KEY) is None)
        assert 100 == await shop.read()
        await publish(bus, xid)  # visible now: evicted at once, and for good
        await eventually(lambda: shop.node.get(KEY) is None)
        assert (0, 0) == (await bus.ready("invalidator.eu.again.500ms"), await bus.ready("invalidator.eu"))


async def test_without_gate_and_second_eviction_the_old_value_stays(shop: Shop, vhost: str) -> None:
    async with working(settings(vhost, shop, again_after=0)), publishing(vhost) as bus:
        async with shop.committing() as xid:
            await read_too_early(shop, bus, xid)
        assert (100, 80) == (await shop.load(), await shop.read())


async def test_without_a_gate_a_second_eviction_comes_by_itself(shop: Shop, vhost: str) -> None:
    async with working(settings(vhost, shop, again_after=1)), publishing(vhost) as bus:
        async with shop.committing() as xid:
            await read_too_early(shop, bus, xid)
        await eventually(lambda: shop.node.get(KEY) is None)
        assert 100 == await shop.read()


async def test_changes_wait_for_a_primary_that_cannot_be_asked_and_other_events_do_not(shop: Shop, vhost: str) -> None:
    gated = settings(vhost, shop, url=Secret(shop.server.url()))
    xid = int(shop.server.sql("SELECT pg_current_xact_id()"))
    shop.server.stop()
    async with working(gated), publishing(vhost) as bus:
        shop.node.set(KEY, b"old")
        await publish(bus, xid)
        await eventually(lambda: shop.node.get(KEY) is None)
        shop.node.set("other", b"old")
        await bus.raw(b'{"type": "cache_evict", "keys": ["other"]}')
        await eventually(lambda: shop.node.get("other") is None)
        shop.node.set(KEY, b"old")
        shop.server.start()
        await eventually(lambda: shop.node.get(KEY) is None)


async def test_a_change_that_is_healed_from_the_log_is_evicted_again_once_new_reads_see_it(
    shop: Shop, vhost: str, broker: Broker
) -> None:
    logged = settings_for(vhost, [shop.node], event_log=EventLogSettings(enabled=True))
    gated = msgspec.structs.replace(settings(vhost, shop, url=Secret(shop.server.url())), event_log=logged.event_log)
    async with working(gated), publishing(vhost) as bus:
        await eventually_ready(bus, "invalidator.log")
        async with shop.committing() as xid:
            assert 80 == await shop.read()
            broker.api("DELETE", f"/queues/{vhost.rpartition('/')[2]}/invalidator.eu")
            await publish(bus, xid)
            await eventually(lambda: shop.node.get(KEY) is None)
            assert 80 == await shop.read()
        await eventually(lambda: shop.node.get(KEY) is None)
        assert 100 == await shop.read()


async def eventually_ready(bus: Publishing, queue: str) -> None:
    """Wait until a message is in a queue: the worker's mark in a new log."""
    async with asyncio.timeout(10):
        while not await bus.ready(queue):
            await asyncio.sleep(0.02)
