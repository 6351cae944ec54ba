"""An auditor that reads PostgreSQL's log by itself: it sees changes that nobody published."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from invalidator.assemble import rules_of
from invalidator.audit.account import Finding, SavedAccount, account_of
from invalidator.audit.auditor import Auditor
from invalidator.audit.changes.row_feed import RowFeed
from invalidator.audit.changes.sampling import Sample
from invalidator.audit.verdict import Reason, Verdict
from invalidator.follow import setup
from invalidator.follow.follower import Follower
from invalidator.operate.topology import declared
from invalidator.settings import AuditSettings, FollowSettings, RuleSettings, Secret, Settings
from tests.integration.auditing import auditing
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import changed, eventually, publishing, settings_for, working
from tests.servers import Memcached, Postgres

RULES = [
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
    RuleSettings(on="product_updated", evict=["product:{id}"]),
    RuleSettings(on="stock_changed", evict=["stock:{id}"]),
]
DELAYS = [0.2, 0.6]
OLD = b'{"price": 1}'


class Shop:
    """A database with a table of products in a publication, without a slot, and the settings of its auditor."""

    def __init__(self, server: Postgres, url: str, vhost: str, folder: Path, nodes: list[Memcached]) -> None:
        self.url = url
        name = url.rpartition("/")[2]
        self.server, self.name = server, name
        audit = AuditSettings(
            account=str(folder / "account.sqlite"), share=1.0, delays=DELAYS, reads=500.0, commands=5000.0
        )
        follow = FollowSettings(url=Secret(url), slot=name.replace("-", "_"))
        settings = settings_for(vhost, nodes, audit=audit, follow=follow)
        self.settings: Settings = replace(settings, rule=RULES)
        self.sql("CREATE TABLE products (id int PRIMARY KEY, price int)")
        self.sql("INSERT INTO products SELECT id, 1 FROM generate_series(1, 9) id")
        self.sql("CREATE PUBLICATION invalidator FOR TABLE products")

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    async def update(self, id: int) -> None:
        await asyncio.to_thread(self.sql, f"UPDATE products SET price = price + 1 WHERE id = {id}")

    def source(self, key: str) -> Callable[[], object]:
        return lambda: self._read(key)

    def _read(self, key: str) -> object:
        kind, _, id = key.partition(":")
        rows = self.sql(f"SELECT price FROM products WHERE id = {id}") if kind == "product" else []
        return {"price": rows[0][0]} if rows else None

    def slots(self) -> list[Any]:
        return self.sql(
            f"SELECT slot_name, temporary FROM pg_replication_slots WHERE database = '{self.name}' ORDER BY temporary"
        )

    def findings(self) -> dict[str, tuple[Reason, Verdict, bool]]:
        """Return reason, verdict and repair of the last finding of each key."""
        with closing(SavedAccount(account_of(self.settings))) as account:
            found: list[Finding] = account.findings(1000)
        return {one.key: (one.reason, one.verdict, one.repaired) for one in reversed(found)}

    def counted(self) -> int:
        with closing(SavedAccount(account_of(self.settings))) as account:
            return sum(sum(minute.counts.values()) for minute in account.minutes(0))

    def close(self) -> None:
        for name, is_temporary in self.slots():
            if not is_temporary:  # else it goes with its connection
                self.sql(f"SELECT pg_drop_replication_slot('{name}')")


@pytest.fixture
def node(memcached: MemcachedFactory) -> Memcached:
    return memcached()


@pytest.fixture
def shop(postgres: Postgres, database: str, vhost: str, node: Memcached, tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(postgres, database, vhost, tmp_path, [node])
    yield shop
    shop.close()


@asynccontextmanager
async def following(settings: Settings) -> AsyncIterator[None]:
    follower, stopping = Follower(settings), asyncio.Event()
    running = asyncio.create_task(follower.run(stopping))
    try:
        await eventually(lambda: running.done() or follower.health().is_ready)
        yield
    finally:
        stopping.set()
        await running


@pytest.mark.quick
async def test_a_row_changed_by_sql_alone_is_found_with_its_event_missing_and_each_change_counts_once(
    shop: Shop, node: Memcached, vhost: str
) -> None:
    running = auditing(Auditor(shop.settings, shop.source))
    async with working(shop.settings), running as auditor, publishing(vhost) as publisher:
        assert [True] == [temporary for _, temporary in shop.slots()]
        node.set("product:1", OLD)
        node.set("product:2", b"to be evicted")
        await shop.update(1)
        await shop.update(2)
        await publisher.update(2)
        await eventually(lambda: node.get("product:2") is None)
        node.set("product:2", OLD)
        await publisher.raw(b'{"type": "stock_changed", "id": 7}')
        await eventually(lambda: len(shop.findings()) == 2 and not len(auditor._tracker), every=0.1)
        node.set("product:2", b"to be evicted")
        await publisher.update(2)  # once more, after all checks: it is no change of its own
        await eventually(lambda: node.get("product:2") is None)
        await publisher.raw(b'{"type": "stock_changed", "id": 8}')  # the auditor receives it after that one
        await eventually(lambda: len(auditor._tracker), every=0.001)
        await eventually(lambda: not len(auditor._tracker))
    assert {
        "product:1": (Reason.EVENT_MISSING, Verdict.PERMANENT, True),
        "product:2": (Reason.WRITTEN_BACK, Verdict.PERMANENT, True),
    } == shop.findings()
    assert [None, None] == [node.get(key) for key in ("product:1", "product:2")]
    assert 4 * len(DELAYS) == shop.counted()
    assert [] == shop.slots()


async def test_a_change_that_the_followers_slot_still_holds_is_late_until_the_follower_runs(
    shop: Shop, node: Memcached
) -> None:
    shop.sql("DROP PUBLICATION invalidator")  # beside it a missing slot would be a gap
    await setup.create(shop.settings)
    async with working(shop.settings), auditing(Auditor(shop.settings, shop.source)) as auditor:
        node.set("product:1", OLD)
        await shop.update(1)
        await eventually(lambda: shop.findings() and not len(auditor._tracker), every=0.1)
        assert {"product:1": (Reason.FOLLOWER_BEHIND, Verdict.LATE, False)} == shop.findings()
        assert OLD == node.get("product:1")
        async with following(shop.settings):
            await eventually(lambda: node.get("product:1") is None)
            counted = shop.counted()
            await shop.update(2)  # the follower's event about it is no second change
            await eventually(lambda: shop.counted() == counted + len(DELAYS), every=0.1)
            await eventually(lambda: not len(auditor._tracker))


async def test_an_auditor_that_is_killed_leaves_no_slot_and_a_user_that_may_only_replicate_is_enough(
    shop: Shop,
) -> None:
    shop.sql("DROP ROLE IF EXISTS auditor")
    shop.sql("CREATE ROLE auditor LOGIN REPLICATION")
    url = shop.url.replace("postgres@", "auditor@")
    feed, keys = feed_of(changed(shop.settings, "follow", url=Secret(url)))
    async with listening(feed):
        await shop.update(1)
        await eventually(lambda: keys)
        (pid,) = shop.sql("SELECT active_pid FROM pg_replication_slots WHERE temporary")[0]
        shop.sql(f"SELECT pg_terminate_backend({pid})")
        await eventually(lambda: not feed.is_linked)
        keys.clear()
        await eventually(lambda: feed.is_linked)
        assert [True] == [temporary for _, temporary in shop.slots()]
        await shop.update(2)
        await eventually(lambda: keys == ["product:2"])
    await eventually(lambda: [] == shop.slots())


def feed_of(settings: Settings) -> tuple[RowFeed, list[str]]:
    """Return a feed of every row, and the keys that it hands on."""
    keys: list[str] = []
    feed = RowFeed(
        settings,
        rules_of(settings),
        Sample(1.0),
        lambda key, _: keys.append(key),
        lambda: None,
        read=lambda: settings,
    )
    return feed, keys


@asynccontextmanager
async def listening(feed: RowFeed) -> AsyncIterator[None]:
    running = asyncio.create_task(feed.listen())
    await eventually(lambda: running.done() or feed.is_linked)
    yield
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_log_that_was_read_up_to_now_holds_every_change_that_a_read_has_seen(shop: Shop) -> None:
    feed, keys = feed_of(shop.settings)
    async with listening(feed):
        with psycopg.connect(shop.url, autocommit=True) as connection:
            for number in range(1, 30):
                connection.execute("UPDATE products SET price = price + 1 WHERE id = 1")  # the loop stands still
                assert await feed.catch_up()
                assert number == len(keys)
            connection.execute("SELECT pg_switch_wal()")
            assert await feed.catch_up(), "the next record's place is behind the header of a page"
    assert not await feed.catch_up(), "without the log nobody knows"


async def test_a_commit_counts_once_new_reads_see_it(shop: Shop) -> None:
    feed, keys = feed_of(shop.settings)
    async with listening(feed):
        shop.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        shop.sql("SELECT pg_reload_conf()")
        try:
            committing = asyncio.create_task(shop.update(1))
            await eventually(lambda: shop.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
            await eventually(lambda: feed._reader and feed._reader.waits_for)
            assert ([], [(1,)]) == (keys, shop.sql("SELECT price FROM products WHERE id = 1"))
        finally:
            shop.sql("ALTER SYSTEM RESET synchronous_standby_names")
            shop.sql("SELECT pg_reload_conf()")
        await eventually(lambda: keys == ["product:1"])
        assert [(2,)] == shop.sql("SELECT price FROM products WHERE id = 1")
        await committing


async def test_a_slot_waits_for_open_transactions_however_long_they_take(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invalidator.follow.stream.SILENCE_SECONDS", 0.3)
    feed, keys = feed_of(shop.settings)
    creating = "SELECT pid, now() - query_start > '1.2 s' FROM pg_stat_activity WHERE query LIKE 'CREATE_REPL%'"
    with psycopg.connect(shop.url) as connection:
        connection.execute("UPDATE products SET price = 5 WHERE id = 5")
        running = asyncio.create_task(feed.listen())
        await eventually(lambda: shop.sql(creating))
        ((pid, _),) = shop.sql(creating)
        await eventually(lambda: shop.sql(creating) == [(pid, True)])
        monkeypatch.undo()
    await eventually(lambda: feed.is_linked)
    await shop.update(1)
    await eventually(lambda: keys == ["product:1"])
    ((linked_at,),) = shop.sql("SELECT now()")
    replied = f"SELECT reply_time > '{linked_at}' FROM pg_stat_replication WHERE pid = {pid}"
    await eventually(lambda: shop.sql(replied) == [(True,)])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_while_the_publication_leaves_out_a_table_nothing_is_covered(shop: Shop) -> None:
    await declared(shop.settings)
    shop.sql("ALTER PUBLICATION invalidator DROP TABLE products")
    async with auditing(Auditor(shop.settings, shop.source), until_ready=False) as auditor:
        await eventually(lambda: "waiting for the database" in auditor.health().status)
        await eventually(lambda: auditor._feeds._events.is_linked)
        assert not auditor.health().is_ready
        shop.sql("ALTER PUBLICATION invalidator ADD TABLE products")
        await eventually(lambda: auditor.health().is_ready)
