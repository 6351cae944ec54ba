"""Log that the follower never reads: each time it is found, named, and kept as a gap by every cluster.

A trial writes, loses a part of the log in one of five ways, writes on, and asks for an account: every committed change
was published or lies in a gap, and so does every published change that the database does not have any more.
"""

import asyncio
import random
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aio_pika
import msgspec
import psycopg
import pytest

from invalidator.broker.connection import connected
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError
from invalidator.follow import lsn, setup, slot
from invalidator.follow.follower import Follower
from invalidator.settings import FollowSettings, RuleSettings, Secret, Settings
from tests.integration.conftest import MemcachedFactory, require
from tests.integration.follow.followed_shop import following, needs
from tests.integration.shop import eventually, settings_for, working
from tests.servers import Postgres, ServerError, postgres_is_installed

SERVER = ("-c", "wal_level=logical", "-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB")
CLUSTERS = "eu", "us"
SLOT = "invalidator"
RULES = [RuleSettings(on="changed:public.products", evict=["product:{id}"])]
_LOG = re.compile(r"log from (\S+) to ([0-9A-F/]+)\)")


class Write(NamedTuple):
    """A committed change, and the positions of the log between which it was committed."""

    product: int
    after: int
    before: int


class Shop:
    """A database with a standby, its follower, and two clusters whose workers keep gaps."""

    def __init__(self, server: Postgres, standby: Postgres, url: str, memcached: MemcachedFactory, seed: int) -> None:
        self.server = server
        self.standby = standby
        self.chance = random.Random(seed)
        self.writes: list[Write] = []
        self.published: set[int] = set()
        #: Sentences about gaps that a cluster must keep.
        self.reasons: set[str] = set()
        self._url = url
        both = f"postgresql://postgres@{server.address},{standby.address}/postgres?target_session_attrs=read-write"
        self.clusters = [
            msgspec.structs.replace(
                settings_for(url, [memcached()], cluster=cluster), follow=FollowSettings(url=Secret(both)), rule=RULES
            )
            for cluster in CLUSTERS
        ]

    @property
    def settings(self) -> Settings:
        return self.clusters[0]

    async def write(self) -> None:
        """Commit a few changes, each in a transaction of its own."""
        for _ in range(self.chance.randint(3, 20)):
            self.writes.append(await asyncio.to_thread(self._insert, len(self.writes)))

    def _insert(self, product: int) -> Write:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            after = self._end(connection)
            connection.execute("INSERT INTO products VALUES (%s)", [product])
            return Write(product, after, self._end(connection))

    @staticmethod
    def _end(connection: "psycopg.Connection") -> int:
        ((text,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
        return lsn.from_text(text)

    async def all_published(self) -> None:
        """Wait until every change so far was published."""
        await eventually(lambda: {write.product for write in self.writes} <= self.published)

    async def drop_slot(self) -> None:
        await asyncio.to_thread(
            self.server.sql, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active"
        )
        async with asyncio.timeout(30):
            while True:
                try:
                    await asyncio.to_thread(self.server.sql, f"SELECT pg_drop_replication_slot('{SLOT}')")
                except ServerError:  # the follower was quicker
                    await asyncio.sleep(0.05)
                else:
                    return

    async def gaps(self, settings: Settings) -> str:
        async with connected(settings, "test") as connection:
            return "\n".join(gap.reason for gap in await remembered_gaps(connection, Topology.of(settings)))

    async def unexplained(self) -> set[int]:
        """Return changes that were committed and not published, or published and undone, outside of every gap."""
        rows = await asyncio.to_thread(self.server.sql, "SELECT id FROM products")
        differing = {int(row) for row in rows.split()} ^ self.published
        found = _LOG.findall(await self.gaps(self.settings))
        gaps = [(0 if begin == "unknown" else lsn.from_text(begin), lsn.from_text(end)) for begin, end in found]
        return {
            write.product
            for write in self.writes
            if write.product in differing
            and not any(write.before >= begin and write.after <= end for begin, end in gaps)
        }

    @asynccontextmanager
    async def witnessed(self) -> AsyncIterator[None]:
        """Collect the products that are published."""
        async with await aio_pika.connect(self._url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("witness", exclusive=True)
            await queue.bind(self.settings.broker.exchange)

            async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                if message.type == "changed:public.products":
                    self.published.add(msgspec.json.decode(message.body)["after"]["id"])

            await queue.consume(take, no_ack=True)
            yield


async def kept_too_little(shop: Shop) -> None:
    """Write more than the server may keep while no follower runs."""
    async with following(shop.settings):
        await shop.write()
        await shop.all_published()
    await shop.write()
    shop.server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    shop.server.sql("SELECT pg_reload_conf()")
    for _ in range(4):
        shop.server.sql(
            "SELECT pg_switch_wal(); CREATE TABLE filler AS SELECT generate_series(1, 100000); DROP TABLE filler"
        )
        shop.server.sql("CHECKPOINT")
    shop.reasons.add("the database has deleted log that was not read")
    await shop.write()
    async with following(shop.settings):
        await goes_on(shop)


async def dropped(shop: Shop) -> None:
    """Drop the slot under a follower that runs."""
    async with following(shop.settings):
        await shop.write()
        await shop.drop_slot()
        shop.reasons.add("the replication slot was dropped")
        await shop.write()
        await goes_on(shop)


async def dropped_meanwhile(shop: Shop) -> None:
    """Drop the slot while no follower runs: the next one does not begin by itself, for it has never seen a slot."""
    async with following(shop.settings):
        await shop.write()
        await shop.all_published()
    await shop.drop_slot()
    await shop.write()
    with pytest.raises(ConfigurationError, match="follow --create"):
        await Follower(shop.settings).run(asyncio.Event())
    await setup.create(shop.settings)
    shop.reasons.add("the replication slot was missing")
    async with following(shop.settings):
        await goes_on(shop)


async def promoted(shop: Shop) -> None:
    """Promote a standby that has neither the slot nor the last changes."""
    async with following(shop.settings):
        await shop.write()
        await shop.all_published()
        await eventually(lambda: shop.standby.sql("SELECT count(*) FROM products") == str(len(shop.writes)))
        shop.standby.stop()
        await shop.write()
        await shop.all_published()
        await asyncio.to_thread(shop.server.crash)
        await asyncio.to_thread(shop.standby.start)
        shop.standby.sql("SELECT pg_promote()")
        shop.server = shop.standby
        shop.reasons.add("the database was set back to an earlier state")
        shop.reasons.add("the database was promoted or restored without its replication slot")
        await shop.write()
        await goes_on(shop)


async def restored(shop: Shop) -> None:
    """Restore a backup of the database's files, with the slot as it was then."""
    async with following(shop.settings):
        await shop.write()
        await shop.all_published()
        await asyncio.to_thread(shop.server.stop)
        backup = shop.server.folder / "backup"
        await run("cp", "--archive", shop.server.data, backup)
        await asyncio.to_thread(shop.server.start)
        await shop.write()
        await shop.all_published()
        await asyncio.to_thread(shop.server.crash)
        await run("rm", "--recursive", shop.server.data)
        backup.rename(shop.server.data)
        await asyncio.to_thread(shop.server.start)
        shop.reasons.add("the database was set back to an earlier state")
        await goes_on(shop)


async def run(*command: str | Path) -> None:
    await asyncio.to_thread(subprocess.run, command, check=True)


async def goes_on(shop: Shop) -> None:
    """Wait until every cluster keeps the gap, and changes are published again."""
    async with asyncio.timeout(60):
        for settings in shop.clusters:
            while [reason for reason in shop.reasons if reason not in await shop.gaps(settings)]:
                await asyncio.sleep(0.05)
    first = len(shop.writes)
    await shop.write()
    await eventually(lambda: set(range(first, len(shop.writes))) <= shop.published)


WAYS: list[Callable[[Shop], Awaitable[None]]] = [kept_too_little, dropped, dropped_meanwhile, promoted, restored]


async def lose(way: Callable[[Shop], Awaitable[None]], url: str, memcached: MemcachedFactory, *, seed: int) -> None:
    """Play one trial, and assert its account."""
    require("postgresql", installed=postgres_is_installed())
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Postgres(*SERVER))
        server.sql("CREATE TABLE products (id int PRIMARY KEY)")
        standby = stack.enter_context(Postgres(*SERVER, primary=server))
        shop = Shop(server, standby, url, memcached, seed)
        for settings in shop.clusters:
            await stack.enter_async_context(working(settings))
        await setup.create(shop.settings)
        await stack.enter_async_context(shop.witnessed())
        await way(shop)
        assert set() == await shop.unexplained()


async def test_a_promoted_standby_without_the_slot_and_the_last_changes_is_a_gap(
    vhost: str, memcached: MemcachedFactory
) -> None:
    await lose(promoted, vhost, memcached, seed=0)


@pytest.mark.long
async def test_a_slot_that_a_standby_keeps_goes_on_after_a_failover(vhost: str, memcached: MemcachedFactory) -> None:
    require("postgresql", installed=postgres_is_installed())
    async with AsyncExitStack() as stack:
        server = stack.enter_context(Postgres(*SERVER))
        needs(server, slot.HAS_FAILOVER)
        server.sql("CREATE TABLE products (id int PRIMARY KEY)")
        server.sql("SELECT pg_create_physical_replication_slot('standby')")
        keeps_slots = "sync_replication_slots=on", "hot_standby_feedback=on", "primary_slot_name=standby"
        options = [option for setting in keeps_slots for option in ("-c", setting)]
        standby = stack.enter_context(Postgres(*SERVER, *options, primary=server))
        server.sql("ALTER SYSTEM SET synchronized_standby_slots = 'standby'")
        server.sql("SELECT pg_reload_conf()")
        shop = Shop(server, standby, vhost, memcached, seed=0)
        await stack.enter_async_context(working(shop.settings))
        await setup.create(shop.settings)
        await stack.enter_async_context(shop.witnessed())
        async with following(shop.settings):
            await shop.write()
            await shop.all_published()
            kept = "SELECT count(*) FROM pg_replication_slots WHERE synced AND NOT temporary"
            await eventually(lambda: standby.sql(kept) == "1")
            await shop.write()
            await shop.all_published()  # so the standby has all of it
            await asyncio.to_thread(server.crash)
            standby.sql("SELECT pg_promote()")
            shop.server = standby
            await shop.write()
            await shop.all_published()
        assert "" == await shop.gaps(shop.settings)


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", range(10))
async def test_log_that_is_lost_is_always_a_gap_in_every_cluster(
    seed: int, vhost: str, memcached: MemcachedFactory
) -> None:
    await lose(WAYS[seed % len(WAYS)], vhost, memcached, seed=seed)
