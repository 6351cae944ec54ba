"""The follower, on a real PostgreSQL and a real broker: what is committed is published, whichever program wrote it."""

import asyncio

import msgspec
import psycopg
import pytest

from invalidator.errors import ConfigurationError, RefusedError
from invalidator.follow import setup
from invalidator.follow.follower import Follower
from invalidator.operate.topology import declared
from invalidator.settings import Secret
from tests.integration.conftest import MemcachedFactory, ProxyFactory, require
from tests.integration.follow.followed_shop import QUEUE, RULES, Shop, following, ids, published
from tests.integration.shop import changed, eventually, publishing, settings_for, working
from tests.servers import Postgres, postgres_is_installed


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
