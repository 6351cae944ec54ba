"""The slot: what it keeps, and the gap when it is lost."""

import asyncio

import msgspec
import pytest

from invalidator.errors import ConfigurationError, UnreachableError
from invalidator.follow import lsn, setup
from invalidator.follow.follower import Follower
from invalidator.operate.diagnosis.check import check
from invalidator.runtime import metrics
from invalidator.settings import Secret
from tests.integration.conftest import MemcachedFactory, ProxyFactory
from tests.integration.follow.followed_shop import (
    QUEUE,
    RULES,
    Shop,
    dropped,
    following,
    ids,
    published,
    published_changes,
)
from tests.integration.shop import changed, eventually, publishing, settings_for, working


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


async def test_without_a_slot_it_never_begins_at_now(shop: Shop) -> None:
    missing = changed(shop.settings, "follow", slot="missing")
    with pytest.raises(ConfigurationError, match=r'^the database has no slot "missing": invalidator follow --create$'):
        await Follower(missing).run(asyncio.Event())
