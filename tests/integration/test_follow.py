"""The follower, on a real PostgreSQL and a real broker: what is committed is published, whichever program wrote it."""

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from invalidator.broker.connection import connected
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remembered_gaps
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.follow import lsn, setup, slot
from invalidator.follow.follower import Follower
from invalidator.follow.setup import database
from invalidator.operate.diagnosis.check import check
from invalidator.operate.diagnosis.followed_database import CREATE, check_follow
from invalidator.operate.topology import declared
from invalidator.runtime import metrics
from invalidator.settings import FollowSettings, RuleSettings, Secret, Settings
from tests.integration.conftest import MemcachedFactory, ProxyFactory, require
from tests.integration.shell import COMMAND
from tests.integration.shop import Publishing, changed, configuration, eventually, publishing, settings_for, working
from tests.servers import Postgres, ServerError, postgres_is_installed

QUEUE = "invalidator.eu"
RULES = [
    RuleSettings(on="changed:public.products", evict=["product:{id}"]),
    RuleSettings(on="product_updated", evict=["product:{id}"]),
]


@pytest.fixture(scope="module")
def logging_postgres() -> Iterator[Postgres]:
    """Start a server that writes what logical decoding needs, and deletes log as soon as a slot lets it."""
    require("postgresql", installed=postgres_is_installed())
    with Postgres("-c", "wal_level=logical", "-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB") as server:
        yield server


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


@pytest.fixture
async def shop(logging_postgres: Postgres, vhost: str) -> AsyncIterator[Shop]:
    """Make a database with a slot, and a vhost with a cluster's queue and no worker."""
    shop = Shop(logging_postgres, vhost.rpartition("/")[2], vhost)
    await declared(shop.settings)
    await shop.create()
    yield shop
    shop.close()


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


async def test_every_committed_change_is_an_event_and_nothing_that_was_rolled_back(shop: Shop, vhost: str) -> None:
    async with publishing(vhost) as bus, following(shop.settings):
        shop.sql("INSERT INTO products VALUES (1, 9.90), (2, 8)")
        shop.sql("BEGIN; UPDATE products SET price = 0; ROLLBACK")
        shop.sql(
            "BEGIN; UPDATE products SET price = 10 WHERE id = 1; SAVEPOINT s; DELETE FROM products; "
            "ROLLBACK TO s; COMMIT"
        )
        shop.sql("DELETE FROM products WHERE id = 2")
        events = await published(bus, 4)
    assert {"changed:public.products"} == {type for type, _ in events}
    assert [("c", 1), ("c", 2), ("u", 1), ("d", 2)] == [
        (body["op"], id) for (_, body), id in zip(events, ids(events), strict=True)
    ]
    assert {"id": 1, "price": "10.00"} == events[2][1]["after"]


async def test_writers_that_no_hook_sees_are_followed(shop: Shop, vhost: str) -> None:
    shop.sql(
        "CREATE FUNCTION twin() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO products VALUES (NEW.id + 1000, 0); RETURN NEW; END $$;"
        "CREATE TRIGGER twin AFTER INSERT ON products FOR EACH ROW WHEN (NEW.id < 1000) EXECUTE FUNCTION twin()"
    )
    async with publishing(vhost) as bus, following(shop.settings):
        with psycopg.connect(shop.server.url(shop.name)) as connection:
            with connection.cursor().copy("COPY products FROM STDIN") as copy:
                copy.write("1\t1.5\n2\t2.5\n")
            connection.commit()
        assert [1, 2, 1001, 1002] == sorted(ids(await published(bus, 4)))


async def test_a_truncated_table_and_a_log_message_are_events_of_their_own(shop: Shop, vhost: str) -> None:
    async with publishing(vhost) as bus, following(shop.settings):
        shop.sql("TRUNCATE products")
        shop.sql("""SELECT pg_logical_emit_message(true, 'invalidator', '{"type": "product_updated", "id": 7}')""")
        events = await published(bus, 2)
    assert ["truncated:public.products", "product_updated"] == [type for type, _ in events]
    assert {"type": "product_updated", "id": 7} == events[1][1]


async def test_types_that_only_this_database_has_are_read(shop: Shop, vhost: str) -> None:
    shop.sql("CREATE DOMAIN cents AS int; CREATE TYPE colour AS ENUM ('blue')")
    shop.sql("ALTER TABLE products ADD cost cents, ADD costs cents[], ADD colours colour[]")
    async with publishing(vhost) as bus, following(shop.settings):
        shop.sql("INSERT INTO products VALUES (1, 1, 5, '{5,6}', '{blue}')")
        ((_, body),) = await published(bus, 1)
    assert {"id": 1, "price": "1.00", "cost": 5, "costs": [5, 6], "colours": ["blue"]} == body["after"]


async def test_the_slot_stays_until_the_broker_has_confirmed(shop: Shop, vhost: str, proxy: ProxyFactory) -> None:
    address = vhost.partition("@")[2].partition("/")[0]
    gate = await proxy(address)
    settings = changed(shop.settings, "broker", url=vhost.replace(address, gate.address))
    async with publishing(vhost) as bus, following(settings) as follower:
        gate.replies.hold()  # published, and confirmed to nobody
        shop.sql("INSERT INTO products VALUES (1, 1)")
        written = shop.now()
        assert [1] == ids(await published(bus, 1))
        await eventually(lambda: not follower.health().is_ready)
        assert written > shop.confirmed()
        gate.replies.release()
        assert {1} == set(ids(await published(bus, 1)))
        await eventually(lambda: shop.confirmed() >= written)


async def test_an_idle_follower_lets_go_of_the_log(shop: Shop) -> None:
    async with following(shop.settings):
        shop.sql("CREATE TABLE other (id int)")
        shop.sql("INSERT INTO other SELECT generate_series(1, 1000)")
        written = shop.now()
        await eventually(lambda: shop.confirmed() >= written)


async def test_nothing_is_published_before_it_can_be_seen(vhost: str) -> None:
    require("postgresql", installed=postgres_is_installed())
    with Postgres("-c", "wal_level=logical") as server:
        shop = Shop(server, "shop", vhost)
        await declared(shop.settings)
        await shop.create()
        server.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.sql("SELECT pg_reload_conf()")
        async with publishing(vhost) as bus, following(shop.settings) as follower:
            committing = asyncio.create_task(asyncio.to_thread(shop.sql, "INSERT INTO products VALUES (1, 1)"))
            await eventually(lambda: follower.health().is_ready)
            await eventually(lambda: "SyncRep" in server.sql("SELECT wait_event FROM pg_stat_activity"))
            await eventually(lambda: "is not visible yet" in follower.health().status)
            assert (0, "0") == (await bus.ready(QUEUE), shop.sql("SELECT count(*) FROM products"))
            server.sql("ALTER SYSTEM RESET synchronous_standby_names")
            server.sql("SELECT pg_reload_conf()")
            assert [1] == ids(await published(bus, 1))
            await committing


async def test_what_was_committed_while_no_follower_ran_is_published_later(shop: Shop, vhost: str) -> None:
    shop.sql("INSERT INTO products VALUES (1, 1)")
    async with publishing(vhost) as bus, following(shop.settings):
        assert [1] == ids(await published(bus, 1))
        await eventually(lambda: shop.confirmed() >= shop.now() - 200)
    shop.sql("INSERT INTO products VALUES (2, 1)")
    async with publishing(vhost) as bus, following(shop.settings):
        assert [2] == ids(await published(bus, 1))


async def test_a_slot_that_the_server_gave_up_is_a_gap_and_is_made_again(shop: Shop, vhost: str) -> None:
    def lose() -> None:
        shop.server.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        shop.server.sql("SELECT pg_reload_conf()")
        for _ in range(4):
            shop.sql(
                "SELECT pg_switch_wal(); CREATE TABLE filler AS SELECT generate_series(1, 100000); DROP TABLE filler"
            )
            shop.sql("CHECKPOINT")

    lose()
    found = await shop.state()
    assert found and found.is_lost
    before = metrics.FOLLOW_GAPS._value.get()
    async with publishing(vhost) as bus, following(shop.settings):
        assert before < metrics.FOLLOW_GAPS._value.get()
        (type, gap), *_ = await published(bus, 1)
        assert "cache_gap" == type
        assert f"log from {lsn.to_text(found.confirmed)} to " in gap["reason"]
        shop.sql("INSERT INTO products VALUES (3, 1)")
        assert [3] == ids(await published_changes(bus, 1))
    shop.server.sql("ALTER SYSTEM RESET max_slot_wal_keep_size")
    shop.server.sql("SELECT pg_reload_conf()")


async def test_a_slot_that_was_dropped_meanwhile_is_a_gap(shop: Shop, vhost: str) -> None:
    before = metrics.FOLLOW_GAPS._value.get()
    async with publishing(vhost) as bus, following(shop.settings) as follower:
        shop.sql("INSERT INTO products VALUES (1, 1)")
        await published(bus, 1)
        name = shop.settings.follow.slot
        shop.sql(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}';")
        await eventually(lambda: dropped(shop))
        await eventually(lambda: metrics.FOLLOW_GAPS._value.get() > before)
        await eventually(lambda: follower.health().is_ready)
        shop.sql("INSERT INTO products VALUES (2, 1)")
        assert 2 in ids(await published_changes(bus, 1))


def dropped(shop: Shop) -> bool:
    try:
        shop.sql(f"SELECT pg_drop_replication_slot('{shop.settings.follow.slot}')")
    except ServerError:  # the follower has it
        return False
    return True


async def test_each_cluster_remembers_the_gap_of_a_slot_until_its_flush(
    shop: Shop, memcached: MemcachedFactory, vhost: str
) -> None:
    settings = msgspec.structs.replace(settings_for(vhost, [memcached()]), rule=RULES)
    async with working(settings):
        async with following(shop.settings) as follower:
            shop.sql("INSERT INTO products VALUES (1, 1)")
            written = shop.now()
            await eventually(lambda: shop.confirmed() >= written)
            name = shop.settings.follow.slot
            shop.sql(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}';")
            await eventually(lambda: dropped(shop))
            await eventually(lambda: not follower.health().is_ready)
            await eventually(lambda: follower.health().is_ready)
        gaps = await shop.gaps()
        assert [True] * len(gaps) == ["the replication slot was dropped" in gap.reason for gap in gaps]
        assert gaps[0].since
        (found,) = [finding for finding in (await check(settings, source="")) if finding.what == "gaps"][:1]
        assert (75, "dropped" in found.text, "invalidator flush" in found.fix) == (found.exit_code, True, True)


async def test_a_slot_that_is_made_again_is_a_gap_and_the_first_one_is_none(shop: Shop, vhost: str) -> None:
    async with publishing(vhost) as bus:
        assert 0 == await bus.ready(QUEUE)
        dropped(shop)
        await setup.create(shop.settings)
        type, gap = (await published(bus, 1))[0]
        assert ("cache_gap", None) == (type, gap["since"])
        assert "the replication slot was missing" in gap["reason"]


async def test_a_slot_is_not_made_again_while_nobody_can_keep_the_gap(
    shop: Shop, vhost: str, proxy: ProxyFactory
) -> None:
    address = vhost.partition("@")[2].partition("/")[0]
    gate = await proxy(address)
    settings = changed(shop.settings, "broker", url=vhost.replace(address, gate.address), connect_timeout=0.5)
    dropped(shop)
    gate.replies.hold()
    with pytest.raises(UnreachableError):
        await setup.create(settings)
    assert await shop.state() is None


async def test_changes_of_a_partition_are_those_of_its_table(shop: Shop, vhost: str) -> None:
    shop.sql("DROP TABLE products")
    shop.sql("CREATE TABLE products (id int PRIMARY KEY, price int) PARTITION BY RANGE (id)")
    shop.sql("CREATE TABLE products_1 PARTITION OF products FOR VALUES FROM (0) TO (100)")
    await setup.create(shop.settings)
    async with publishing(vhost) as bus, following(shop.settings):
        shop.sql("INSERT INTO products VALUES (1, 1)")
        shop.sql("UPDATE products_1 SET price = 2")
        assert {"changed:public.products"} == {type for type, _ in await published(bus, 2)}


async def test_a_table_whose_updates_would_fail_is_not_published(shop: Shop) -> None:
    shop.sql("ALTER TABLE products DROP CONSTRAINT products_pkey")
    with pytest.raises(ConfigurationError, match=r"REPLICA IDENTITY FULL$"):
        await setup.create(shop.settings)


class TestCheck:
    @pytest.fixture
    def findings(self, shop: Shop) -> Callable[..., Awaitable[list[tuple[str, str, str]]]]:
        """Return a call that checks the database, with these templates on products."""

        async def found(*templates: str, **follow: Any) -> list[tuple[str, str, str]]:
            rule = [RuleSettings(on="changed:public.products", evict=list(templates or ("product:{id}",)))]
            settings = msgspec.structs.replace(changed(shop.settings, "follow", **follow), rule=rule)
            return [(finding.level, finding.text, finding.fix) for finding in await check_follow(settings)]

        return found

    async def test_a_follower_that_keeps_up_is_well(self, shop: Shop, findings: Any) -> None:
        async with following(shop.settings):
            found = await findings()
        assert {"ok", "note"} == {level for level, _, _ in found}
        assert "max_slot_wal_keep_size = -1" in next(text for level, text, _ in found if level == "note")
        assert "tables: public.products" == found[-1][1]

    async def test_nobody_follows(self, findings: Any) -> None:
        assert [("wrong", True)] == [
            (level, "systemctl start invalidator-follow" in fix)
            for level, text, fix in await findings()
            if text.endswith("nobody follows")
        ]

    async def test_old_values_that_the_log_does_not_hold(self, shop: Shop, findings: Any) -> None:
        templates = "product:{id}", "price:{before.price?}", "id:{before.id?}"
        full = "ALTER TABLE public.products REPLICA IDENTITY FULL"
        (found,) = [each for each in await findings(*templates) if "old row" in each[1]]
        assert ("wrong", "rules name {before.price}", full) == (found[0], found[1].partition(", and ")[2], found[2])
        shop.sql(full)
        assert [] == [each for each in await findings(*templates) if "old row" in each[1]]

    async def test_a_large_value_that_an_update_leaves(self, shop: Shop, findings: Any) -> None:
        shop.sql("ALTER TABLE products ADD note text")
        (found,) = [each for each in await findings("note:{after.note?}") if "TOAST" in each[1]]
        assert "note" == found[0]

    async def test_columns_and_tables_that_do_not_exist(self, shop: Shop, findings: Any) -> None:
        assert "{colour}" in str(await findings("product:{colour}"))
        shop.sql("DROP TABLE products")
        assert "there is no such table" in str(await findings())

    async def test_a_publication_that_leaves_out_a_table(self, shop: Shop, findings: Any) -> None:
        shop.sql("ALTER PUBLICATION invalidator DROP TABLE products")
        assert [("wrong", CREATE)] == [
            (level, fix)
            for level, text, fix in await findings()
            if text == "the publication leaves out public.products"
        ]

    async def test_a_missing_slot_publication_and_right(self, shop: Shop, findings: Any) -> None:
        shop.sql("DROP ROLE IF EXISTS nobody; CREATE ROLE nobody LOGIN")
        url = Secret(shop.server.url(shop.name).replace("postgres@", "nobody@"))
        found = await findings(url=url, slot="missing", publication="missing")
        assert ["may not read the server's log", "there is no slot missing", "there is no publication missing"] == [
            text.removeprefix("nobody ") for _, text, _ in found
        ]
        assert 'ALTER ROLE "nobody" REPLICATION' == found[0][2]

    async def test_standbys_that_would_lose_the_slot_or_its_place(self, shop: Shop, findings: Any) -> None:
        needs(shop.server, slot.HAS_FAILOVER)
        name = shop.settings.follow.slot

        async def of_failover() -> list[tuple[str, str]]:
            return [(text, fix) for _, text, fix in await findings() if "failover" in text]

        assert [] == await of_failover()
        shop.sql("SELECT pg_create_physical_replication_slot('standby_1')")
        try:
            ((text, fix),) = await of_failover()
            assert ("standby_1" in text, "synchronized_standby_slots = 'standby_1'" in fix) == (True, True)
            dropped(shop)
            shop.sql(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
            ((text, fix),) = await of_failover()
            assert ("failover = false" in text, f"{name} (FAILOVER true)" in fix) == (True, True)
        finally:
            shop.sql("SELECT pg_drop_replication_slot('standby_1')")

    async def test_a_database_that_is_away(self, findings: Any) -> None:
        ((level, text, _),) = await findings(url=Secret("postgresql://nobody@127.0.0.1:1/shop"))
        assert ("wrong", True) == (level, "refused" in text)


async def test_a_user_that_may_only_replicate_goes_on_after_a_gap(shop: Shop, vhost: str) -> None:
    shop.sql("DROP ROLE IF EXISTS follower; CREATE ROLE follower LOGIN REPLICATION")
    url = shop.server.url(shop.name).replace("postgres@", "follower@")
    async with publishing(vhost) as bus, following(changed(shop.settings, "follow", url=Secret(url))):
        shop.sql("INSERT INTO products VALUES (1, 1)")
        await published(bus, 1)
        name = shop.settings.follow.slot
        before = metrics.FOLLOW_GAPS._value.get()
        shop.sql(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}';")
        await eventually(lambda: dropped(shop))
        await eventually(lambda: metrics.FOLLOW_GAPS._value.get() > before)
        await eventually(
            lambda: "1" == shop.sql(f"SELECT count(active_pid) FROM pg_replication_slots WHERE slot_name = '{name}'")
        )
        shop.sql("INSERT INTO products VALUES (2, 1)")
        assert 2 in ids(await published_changes(bus, 1))


async def test_a_database_that_falls_silent_is_left_and_found_again(
    shop: Shop, vhost: str, proxy: ProxyFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invalidator.follow.stream.SILENCE_SECONDS", 3.0)
    gate = await proxy(shop.server.address)
    url = shop.server.url(shop.name).replace(shop.server.address, gate.address)
    async with publishing(vhost) as bus, following(changed(shop.settings, "follow", url=Secret(url))) as follower:
        gate.replies.hold()
        await eventually(lambda: "said nothing" in follower.health().status)
        shop.sql("INSERT INTO products VALUES (1, 1)")
        gate.replies.release()
        assert [1] == ids(await published(bus, 1))


async def test_without_a_slot_it_never_begins_at_now(shop: Shop) -> None:
    missing = changed(shop.settings, "follow", slot="missing")
    with pytest.raises(ConfigurationError, match=r'^the database has no slot "missing": invalidator follow --create$'):
        await Follower(missing).run(asyncio.Event())


async def test_a_user_that_may_not_replicate_is_refused(shop: Shop) -> None:
    shop.sql("DROP ROLE IF EXISTS nobody; CREATE ROLE nobody LOGIN")
    url = shop.server.url(shop.name).replace("postgres@", "nobody@")
    with pytest.raises(RefusedError, match=r"replication role|REPLICATION"):
        await Follower(changed(shop.settings, "follow", url=Secret(url))).run(asyncio.Event())


async def test_a_row_changed_by_psql_is_gone_from_the_cache(
    shop: Shop, memcached: MemcachedFactory, vhost: str
) -> None:
    node = memcached()
    settings = msgspec.structs.replace(settings_for(vhost, [node]), rule=RULES)
    node.set("product:7", b"old")
    async with working(settings), following(shop.settings):
        shop.sql("INSERT INTO products VALUES (7, 1)")
        await eventually(lambda: node.get("product:7") is None)


class TestCommand:
    @pytest.fixture
    def folder(self, shop: Shop, tmp_path: Path) -> list[str]:
        return ["--config", str(configuration(shop.settings, tmp_path))]

    def test_slot_and_publication_are_made_and_dropped(self, shop: Shop, folder: list[str]) -> None:
        name = shop.settings.follow.slot
        dropped = run("follow", "--drop", *folder)
        assert (0, f"slot {name} and publication invalidator are gone\n") == (dropped.returncode, dropped.stdout)
        assert "0" == shop.sql(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'")
        made = run("follow", "--create", *folder)
        assert f"slot {name} and publication invalidator exist, for: public.products\n" == made.stdout
        assert "products" == shop.sql("SELECT tablename FROM pg_publication_tables WHERE pubname = 'invalidator'")

    def test_a_dry_run_shows_events_and_leaves_the_slot_where_it_is(self, shop: Shop, folder: list[str]) -> None:
        shop.sql("INSERT INTO products VALUES (1, 1)")
        before = shop.confirmed()
        with subprocess.Popen([COMMAND, "follow", "--dry-run", *folder], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert "changed:public.products" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert 0 == process.wait(20)
        assert before == shop.confirmed()

    def test_without_a_slot_it_says_how_to_make_one(self, shop: Shop, folder: list[str]) -> None:
        run("follow", "--drop", *folder)
        done = run("follow", *folder)
        assert 78 == done.returncode
        assert "invalidator follow --create" in done.stderr

    def test_a_killed_follower_goes_on_where_it_was(self, shop: Shop, folder: list[str]) -> None:
        for number in range(3):
            shop.sql(f"INSERT INTO products VALUES ({number}, 1)")
            with subprocess.Popen([COMMAND, "follow", *folder], stderr=subprocess.DEVNULL) as process:
                written = shop.now()
                deadline = time.monotonic() + 30
                while shop.confirmed() < written - 200:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                process.kill()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)
