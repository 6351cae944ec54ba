"""A database that is followed, its follower, and the events that come of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from invalidator.broker.connection import connected
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.topology import Topology
from invalidator.follow import lsn, setup, slot
from invalidator.follow.follower import Follower
from invalidator.follow.setup import database
from invalidator.settings import FollowSettings, RuleSettings, Secret, Settings
from tests.integration.shop import Publishing, eventually, settings_for
from tests.servers import Postgres, ServerError

QUEUE = "invalidator.eu"
RULES = [
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
    RuleSettings(on="product_updated", evict=["product:{id}"]),
]


def needs(server: Postgres, version: int) -> None:
    """Skip the test on an older server."""
    if int(server.sql("SHOW server_version_num")) < version:
        pytest.skip(f"needs PostgreSQL {version // 10_000}")


class Shop:
    """A database with a table of products, and the settings of a follower of it."""

    def __init__(self, server: Postgres, name: str, vhost: str) -> None:
        self.server = server
        self.name = name
        settings = settings_for(vhost, {"c1": "127.0.0.1:11211"})
        follow = FollowSettings(url=Secret(server.add_database(name)), slot=name.replace("-", "_"))
        self.settings: Settings = msgspec.structs.replace(settings, follow=follow, rule=RULES)
        self.sql("CREATE TABLE products (id int PRIMARY KEY, price numeric(10,2))")

    def sql(self, statement: str) -> str:
        return self.server.sql(statement, database=self.name)

    async def create(self) -> None:
        await setup.create(self.settings)

    async def state(self) -> slot.SlotState | None:
        async with database(self.settings) as connection:
            return await slot.inspect(connection, self.settings.follow.slot)

    async def gaps(self) -> list[Gap]:
        async with connected(self.settings, "test") as connection:
            return await remembered_gaps(connection, Topology.of(self.settings))

    def confirmed(self) -> int:
        name = self.settings.follow.slot
        return lsn.from_text(
            self.sql(f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{name}'")
        )

    def now(self) -> int:
        return lsn.from_text(self.sql("SELECT pg_current_wal_lsn()"))

    def close(self) -> None:
        name = self.settings.follow.slot
        self.sql(f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'")
        self.server.drop_database(self.name)


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[Follower]:
    """Run a follower in this process, and stop it in good order."""
    follower, stopping = Follower(settings), asyncio.Event()
    running = asyncio.create_task(follower.run(stopping))
    try:
        await eventually(lambda: running.done() or follower.tried.is_set())
        yield follower
    finally:
        stopping.set()
        await running


async def published(bus: Publishing, count: int) -> list[tuple[str, Any]]:
    """Take events until there are `count`, or until it is clear that there are more."""
    found: list[tuple[str, Any]] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += [(str(message.type), json.loads(message.body)) for message in await bus.take(QUEUE)]
    return found


async def published_changes(bus: Publishing, count: int) -> list[tuple[str, Any]]:
    """Take changes until there are `count`, and leave out the gaps between them."""
    found: list[tuple[str, Any]] = []
    while len(found) < count:
        found += [event for event in await published(bus, 1) if event[0] != "cache_gap"]
    return found


def ids(events: list[tuple[str, Any]]) -> list[Any]:
    return [(body["after"] or body["before"])["id"] for _, body in events]


def dropped(shop: Shop) -> bool:
    try:
        shop.sql(f"SELECT pg_drop_replication_slot('{shop.settings.follow.slot}')")
    except ServerError:  # the follower has it
        return False
    return True
