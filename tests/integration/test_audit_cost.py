"""The cost of an auditor, counted by the servers themselves, and the time in which there was none.

pytest -m long -s tests/integration/test_audit_cost.py
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from invalidator.app import LookAsideCache
from invalidator.audit.account import SavedAccount, account_of
from invalidator.audit.auditor import TICK_SECONDS, Auditor
from invalidator.audit.budget import BURST_SECONDS
from invalidator.audit.summary import DAY, Line, percent, summary_of
from invalidator.settings import AuditSettings, FollowSettings, RuleSettings, Secret, Settings
from tests.integration.auditing import auditing
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import Publishing, eventually, publishing, settings_for, working
from tests.servers import Memcached

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

#: Reads by the application, and products that change, in each phase.
READS, CHANGES = 60_000, 2_000
#: Products that change at once.
TOGETHER = 50
#: Seconds without an auditor.
AWAY = 60.0
RULES = [
    RuleSettings(on="product_updated", evict=["product:{id}"]),
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
]
#: Counters of memcached's `stats` that count the commands of readers and auditor; the worker only deletes.
COMMANDS = ("cmd_get", "cmd_set", "cmd_touch")


class Source:
    """The application's source in PostgreSQL, where each read takes the next number of a sequence."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.sql("CREATE TABLE products (id int PRIMARY KEY, price int)")
        self.sql(f"INSERT INTO products SELECT id, 1 FROM generate_series(1, {CHANGES}) id")
        self.sql("CREATE PUBLICATION invalidator FOR TABLE products")
        self.sql("CREATE SEQUENCE reads")
        self.sql("SELECT nextval('reads')")

    def sql(self, statement: str) -> list[tuple[int, ...]]:
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def __call__(self, key: str) -> Callable[[], object]:
        id = key.removeprefix("product:")
        return lambda: self.sql(f"SELECT price, nextval('reads') FROM products WHERE id = {id}")[0][0]

    def change(self, first: int, last: int) -> None:
        """Commit a change of each of these rows; the price is the same as before."""
        self.sql(f"UPDATE products SET price = 1 WHERE id BETWEEN {first} AND {last}")

    def reads(self) -> int:
        """Return the reads so far."""
        ((reads,),) = self.sql("SELECT last_value FROM reads")
        return reads


def audited(vhost: str, nodes: list[Memcached], folder: Path, url: str, **options: Any) -> Settings:
    audit = AuditSettings(account=str(folder / "account.sqlite"), delays=[0.1, 0.5, 2.0], **options)
    settings = settings_for(vhost, nodes, audit=audit, follow=FollowSettings(url=Secret(url)))
    return replace(settings, rule=RULES)


async def over(auditor: Auditor) -> None:
    """Return once no key is being checked."""
    await eventually(lambda: not len(auditor._tracker), within=240)


def commands(nodes: list[Memcached]) -> int:
    """Return the commands of readers and auditor that the nodes have answered, as they count them."""
    return sum(int(node.stats()[name]) for node in nodes for name in COMMANDS)


def read(nodes: list[Memcached]) -> None:
    """Read pages, as an application does."""
    with closing(LookAsideCache({f"c{n}": node.address for n, node in enumerate(nodes, 1)})) as cache:
        for number in range(READS):
            cache.get_or_load(f"page:{number % 100}", lambda: "a page", ttl=600)


async def change(node: Memcached, source: Source, publisher: Publishing) -> None:
    """Change and publish every product once, and store each of them again."""
    for first in range(1, CHANGES + 1, TOGETHER):
        products = range(first, first + TOGETHER)
        await asyncio.to_thread(source.change, products[0], products[-1])
        await publisher.update(*products)
        for product in products:
            await asyncio.to_thread(node.set, f"product:{product}", b"1")


async def load(nodes: list[Memcached], source: Source, publisher: Publishing) -> None:
    await asyncio.gather(asyncio.to_thread(read, nodes), change(nodes[0], source, publisher))


def lines(settings: Settings) -> list[Line]:
    return summary_of(account_of(settings), now=time.time(), seconds=DAY)


async def test_an_auditor_of_one_percent_adds_less_than_one_percent_of_commands(
    vhost: str, memcached: MemcachedFactory, database: str, tmp_path: Path
) -> None:
    nodes, source = [memcached(), memcached()], Source(database)
    settings = audited(vhost, nodes, tmp_path, database)
    async with working(settings), publishing(vhost) as publisher:
        await load(nodes, source, publisher)  # every page is cached now
        before = commands(nodes)
        await load(nodes, source, publisher)
        alone = commands(nodes) - before
        async with auditing(Auditor(settings, source)) as auditor:
            before, reads, began = commands(nodes), source.reads(), time.monotonic()
            await load(nodes, source, publisher)
            await over(auditor)
            more, reads = commands(nodes) - before - alone, source.reads() - reads
            allowed = (time.monotonic() - began + BURST_SECONDS) * settings.audit.reads
    checked, present = sum(line.checked for line in lines(settings)), sum(line.present for line in lines(settings))
    print(f"\n{alone:,} commands, with an auditor {more:,} or {more / alone:.2%} more", end="; ")
    print(f"{reads} reads of the source, {allowed:.0f} are allowed; {checked} checks, {present} with a value")
    assert 0 < more < alone / 100
    assert 0 < reads <= allowed
    assert 0 < present <= checked


@pytest.mark.parametrize(
    "limits", [{"reads": 5.0, "commands": 1000.0}, {"reads": 1000.0, "commands": 40.0}], ids=["reads", "commands"]
)
async def test_an_auditor_of_everything_keeps_its_limits_as_the_servers_count(
    limits: dict[str, float], vhost: str, memcached: MemcachedFactory, database: str, tmp_path: Path
) -> None:
    nodes, source = [memcached(), memcached()], Source(database)
    settings = audited(vhost, nodes, tmp_path, database, share=1.0, **limits)
    async with working(settings), auditing(Auditor(settings, source)) as auditor, publishing(vhost) as publisher:
        before, reads, began = commands(nodes), source.reads(), time.monotonic()
        await change(nodes[0], source, publisher)
        await over(auditor)
        seconds = time.monotonic() - began + BURST_SECONDS
        asked, reads = commands(nodes) - before - CHANGES, source.reads() - reads
    print(f"\n{asked} commands, {seconds * limits['commands']:.0f} are allowed", end="; ")
    print(f"{reads} reads of the source, {seconds * limits['reads']:.0f} are allowed", end="; ")
    print(f"coverage {percent(min(line.coverage for line in lines(settings)))}")
    assert 0 < reads <= seconds * limits["reads"]
    assert 0 < asked <= seconds * limits["commands"]
    assert all(line.coverage < 0.5 for line in lines(settings)), "the limit that was reached is seen in the coverage"


async def test_a_minute_without_an_auditor_is_missing_in_the_coverage(
    vhost: str, memcached: MemcachedFactory, database: str, tmp_path: Path
) -> None:
    source = Source(database)
    settings = audited(vhost, [memcached()], tmp_path, database, share=1.0)
    began = time.time()

    async def check_once() -> float:
        """Check one change; return the time at which the auditor began to stop."""
        async with auditing(Auditor(settings, source)) as auditor:
            source.change(1, 1)
            await eventually(lambda: len(auditor._tracker))
            await over(auditor)
            return time.time()

    async with working(settings):
        stopped = await check_once()
        await asyncio.sleep(AWAY)
        away = time.time() - stopped
        await check_once()
    now = time.time()
    with closing(SavedAccount(account_of(settings))) as account:
        listened = account.listened(0)
    covered = now - began - away + TICK_SECONDS
    coverage = [line.coverage for line in summary_of(account_of(settings), now=now, seconds=DAY)]
    print(f"\nreceived for {listened:.1f} of {now - began:.1f} s: coverage {percent(max(coverage))}")
    assert 3.0 < listened <= covered
    assert all(0 < each <= covered / (now - began) for each in coverage)
