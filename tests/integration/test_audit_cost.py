"""The cost of an auditor, counted by the servers themselves, and the time in which there was none.

pytest -m long -s tests/integration/test_audit_cost.py
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from invalidator.app import LookAsideCache
from invalidator.audit.account import SavedAccount, account_of
from invalidator.audit.auditor import TICK_SECONDS, Auditor
from invalidator.audit.summary import DAY, summary_of
from invalidator.settings import AuditSettings, FollowSettings, RuleSettings, Secret, Settings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import Publishing, eventually, publishing, settings_for, working
from tests.servers import Memcached, Postgres

#: Reads by the application, and changes, in each phase.
READS, CHANGES = 60_000, 2_000
RULES = [
    RuleSettings(on="product_updated", evict=["product:{id}"]),
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
]
#: Counters of memcached's `stats` that count the commands of readers and auditor; the worker only deletes.
COMMANDS = ("cmd_get", "cmd_set", "cmd_touch")


class Source:
    """The application's source in PostgreSQL; each read is one scan of its table."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.sql("CREATE TABLE products (id int PRIMARY KEY, price int)")
        self.sql(f"INSERT INTO products SELECT id, 1 FROM generate_series(1, {CHANGES}) id")
        self.sql("CREATE PUBLICATION invalidator FOR TABLE products")

    def sql(self, statement: str) -> list[tuple[int, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def __call__(self, key: str) -> Callable[[], object]:
        return lambda: self.sql(f"SELECT price FROM products WHERE id = {key.removeprefix('product:')}")[0][0]

    def scans(self) -> int:
        """Return the scans of the table so far, as the server counts them; each session reports as it ends."""
        ((scans,),) = self.sql("SELECT seq_scan + idx_scan FROM pg_stat_user_tables WHERE relname = 'products'")
        return scans


def audited(vhost: str, nodes: list[Memcached], folder: Path, url: str, **options: Any) -> Settings:
    audit = AuditSettings(account=str(folder / "account.sqlite"), delays=[0.1, 0.5, 2.0], **options)
    settings = settings_for(vhost, nodes, audit=audit, follow=FollowSettings(url=Secret(url)))
    return replace(settings, rule=RULES)


@asynccontextmanager
async def auditing(settings: Settings, source: Source) -> AsyncIterator[Auditor]:
    auditor, stopping = Auditor(settings, source), asyncio.Event()
    running = asyncio.create_task(auditor.run(stopping))
    await eventually(lambda: running.done() or auditor.health().is_ready)
    yield auditor
    stopping.set()
    await running


def commands(nodes: list[Memcached]) -> int:
    """Return the commands of readers and auditor that the nodes have answered, as they count them."""
    return sum(int(node.stats()[name]) for node in nodes for name in COMMANDS)


async def load(nodes: list[Memcached], publisher: Publishing) -> int:
    """Read pages that never change, and change every product once; return the commands that the nodes have counted."""
    before = commands(nodes)

    def read() -> None:
        with closing(LookAsideCache({f"c{n}": node.address for n, node in enumerate(nodes, 1)})) as cache:
            for number in range(READS):
                cache.get_or_load(f"page:{number % 100}", lambda: "a page", ttl=600)

    async def change() -> None:
        for first in range(1, CHANGES + 1, 50):
            await publisher.update(*range(first, first + 50))
            await asyncio.sleep(0.05)

    await asyncio.gather(asyncio.to_thread(read), change())
    return commands(nodes) - before


@pytest.mark.long
async def test_an_auditor_of_one_percent_adds_less_than_one_percent_of_commands(
    vhost: str, memcached: MemcachedFactory, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    nodes, source = [memcached(), memcached()], Source(database)
    settings = audited(vhost, nodes, tmp_path, database)
    async with working(settings), publishing(vhost) as publisher:
        await load(nodes, publisher)  # the pages are filled
        alone = await load(nodes, publisher)
        async with auditing(settings, source) as auditor:
            before, scans, began = commands(nodes), source.scans(), time.monotonic()
            await load(nodes, publisher)
            await eventually(lambda: not len(auditor._tracker))
            beside, scans = commands(nodes) - before, source.scans() - scans
            seconds = time.monotonic() - began
    with closing(SavedAccount(account_of(settings))) as account:
        checks = sum(sum(minute.counts.values()) for minute in account.minutes(0))
    print(
        f"commands {alone}, with an auditor {beside}: {(beside - alone) / alone:.2%} more; {checks} checks due", end=""
    )
    print(f"; {scans} reads of the source in {seconds:.1f} s, {settings.audit.reads} a second are allowed")
    assert 0 < beside - alone < alone / 100
    assert 0 < scans <= (seconds + 2) * settings.audit.reads
    assert checks > 0


@pytest.mark.long
async def test_an_auditor_of_everything_keeps_its_limits_as_the_servers_count(
    vhost: str, memcached: MemcachedFactory, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    nodes, source = [memcached(), memcached()], Source(database)
    settings = audited(vhost, nodes, tmp_path, database, share=1.0, reads=5.0, commands=40.0)
    async with working(settings), auditing(settings, source), publishing(vhost) as publisher:
        before, scans, began = commands(nodes), source.scans(), time.monotonic()
        for number in range(1, 1001):
            nodes[0].set(f"product:{number}", b"1")
        source.sql("UPDATE products SET price = 1")
        await publisher.update(*range(1, 1001))
        await eventually(lambda: int(nodes[0].stats()["delete_hits"]) == 1000)
        await asyncio.sleep(4)  # the changes are checked for this long
        seconds = time.monotonic() - began
        asked, scans = commands(nodes) - before - 1000, source.scans() - scans - 1  # those of this test itself
    print(f"{asked} commands and {scans} reads of the source in {seconds:.1f} s")
    assert 0 < scans <= (seconds + 2) * 5.0
    assert 0 < asked <= (seconds + 2) * 40.0


@pytest.mark.long
async def test_a_time_without_an_auditor_is_missing_in_the_coverage(
    vhost: str, memcached: MemcachedFactory, postgres: Postgres, database: str, tmp_path: Path
) -> None:
    source = Source(database)
    settings = audited(vhost, [memcached()], tmp_path, database, share=1.0)
    began = time.time()

    async def check_once() -> float:
        """Check one change; return when the auditor began to stop."""
        async with auditing(settings, source) as auditor:
            source.sql("UPDATE products SET price = price + 1 WHERE id = 1")
            await eventually(lambda: len(auditor._tracker))
            await eventually(lambda: not len(auditor._tracker))
            return time.time()

    async with working(settings):
        stopped = await check_once()
        await asyncio.sleep(4)
        away = time.time() - stopped
        await check_once()
    now = time.time()
    with closing(SavedAccount(account_of(settings))) as account:
        listened = account.listened(0)
    covered = now - began - away + TICK_SECONDS
    assert 4.0 < listened <= covered
    assert all(
        line.coverage <= covered / (now - began) for line in summary_of(account_of(settings), now=now, seconds=DAY)
    )
