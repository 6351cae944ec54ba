"""Outbox and relay, on real databases and a real broker: committed events are published, rolled-back ones never."""

import asyncio
import itertools
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, create_engine, func, select, text, update

from invalidator.app.publish.outbox import SHARDS, TABLE, Outbox
from invalidator.errors import ConfigurationError, PoisonError, RefusedError
from invalidator.events.event import Event
from invalidator.operate.diagnosis.outbox_backlog import check_outbox
from invalidator.operate.topology import declared
from invalidator.relay.claims import ALL, Claims, lock_prefix
from invalidator.relay.database import LOCKS, READ_SECONDS, OutboxSession, engine_of
from invalidator.relay.notifications import listen
from invalidator.relay.relay import Relay
from invalidator.settings import OutboxSettings, Secret, Settings
from tests.integration.conftest import Notifications, ProxyFactory, require
from tests.integration.shop import (
    Publishing,
    changed,
    configuration,
    eventually,
    publishing,
    relay_process,
    settings_for,
)
from tests.servers import (
    Broker,
    Mariadb,
    PgBouncer,
    Postgres,
    mariadb_is_installed,
    pgbouncer_is_installed,
    postgres_is_installed,
)

ROOT = Path(__file__).parents[2]
QUEUE = "invalidator.eu"


#: Fixtures that yield the URL of an empty database with locks that relays share.
SHARED = ["database", "mariadb_database"]


@pytest.fixture(params=["sqlite", *SHARED])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return SQLAlchemy's URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shop.db"
    return with_driver(request.getfixturevalue(request.param))


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest) -> str:
    """Return SQLAlchemy's URL of an empty database that is not SQLite's."""
    return with_driver(request.getfixturevalue(request.param))


def with_driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://").replace("mariadb://", "mariadb+pymysql://")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url)
    Outbox().create(engine)
    yield engine
    engine.dispose()


@pytest.fixture
async def shop(vhost: str) -> AsyncIterator[Publishing]:
    """Make a vhost with a cluster's queue and no worker."""
    await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
    async with publishing(vhost) as shop:
        yield shop


def relay_settings(vhost: str, url: str, **outbox: Any) -> Settings:
    settings = settings_for(vhost, {"c1": "127.0.0.1:11211"}, broker={"publish_timeout": 20.0})
    return msgspec.structs.replace(
        settings, outbox=OutboxSettings(url=Secret(url), **({"poll_interval": 0.02} | outbox))
    )


@asynccontextmanager
async def relaying(*several: Settings, read: Callable[[], Settings] | None = None) -> AsyncIterator[list[Relay]]:
    """Run relays in this process, and stop them in good order."""
    stopping = asyncio.Event()
    relays = [Relay(settings, read=read) for settings in several]
    running = [asyncio.create_task(relay.run(stopping)) for relay in relays]
    try:
        yield relays
    finally:
        stopping.set()
        await asyncio.gather(*running)


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(Outbox().table)) or 0


def append(engine: Engine, *ids: object, **fields: Any) -> None:
    outbox = Outbox(app_id="shop")
    with engine.begin() as connection:
        for number in ids:
            outbox.append(connection, Event("product_updated", {"id": number} | fields))


async def ids(shop: Publishing) -> list[Any]:
    return [json.loads(message.body)["id"] for message in await shop.take(QUEUE)]


async def test_a_committed_event_is_published_like_any_other_and_deleted_from_the_table(
    shop: Publishing, vhost: str, url: str, engine: Engine
) -> None:
    append(engine, "abc-123", price=109.99)
    async with relaying(relay_settings(vhost, url)):
        await eventually(lambda: count(engine) == 0)
    (message,) = await shop.take(QUEUE)
    assert {"type": "product_updated", "id": "abc-123", "price": 109.99} == json.loads(message.body)
    assert (message.type, message.app_id, message.content_type) == ("product_updated", "shop", "application/json")
    assert message.delivery_mode == 2
    assert message.message_id
    assert message.timestamp


async def test_of_a_thousand_rollbacks_nothing_is_published(
    shop: Publishing, vhost: str, url: str, engine: Engine
) -> None:
    outbox = Outbox()
    async with relaying(relay_settings(vhost, url)):
        with engine.connect() as connection:
            for number in range(1000):
                outbox.append(connection, Event("product_updated", {"id": number}))
                connection.rollback()
        append(engine, "committed")
        await eventually(lambda: count(engine) == 0)
    assert await ids(shop) == ["committed"]


async def test_several_relays_share_the_work_and_keep_the_order_of_each_entity(
    shop: Publishing, vhost: str, url: str, engine: Engine
) -> None:
    settings = relay_settings(vhost, url, batch_events=7)
    async with relaying(settings, settings, settings):
        for version in range(60):
            append(engine, *range(5), version=version)
        await eventually(lambda: count(engine) == 0)
    received: dict[int, list[int]] = {}
    for message in await shop.take(QUEUE):
        event = json.loads(message.body)
        received.setdefault(event["id"], []).append(event["version"])
    assert received == {number: list(range(60)) for number in range(5)}


async def test_a_relay_begins_where_another_was_killed_between_publish_and_commit(
    shop: Publishing, vhost: str, broker: Broker, url: str, engine: Engine, proxy: ProxyFactory, tmp_path: Path
) -> None:
    way = await proxy(broker.address)
    way.replies.rewrite = _without_confirmations
    append(engine, *range(3))
    settings = relay_settings(vhost.replace(broker.address, way.address), url)
    with relay_process(settings, tmp_path) as killed:
        async with asyncio.timeout(60):
            while await shop.ready(QUEUE) < 3:
                await asyncio.sleep(0.01)
        killed.kill()
    assert count(engine) == 3
    async with relaying(relay_settings(vhost, url)):
        await eventually(lambda: count(engine) == 0)
    messages = await shop.take(QUEUE)
    assert len(messages) == 6
    assert len({message.message_id for message in messages}) == 3


def _without_confirmations(data: bytes) -> bytes:
    """Drop basic.ack (class 60, method 80) from the broker's bytes."""
    return b"" if data[7:11] == b"\x00\x3c\x00\x50" else data


async def test_events_that_waited_for_the_broker_are_published_when_it_is_back(
    shop: Publishing, vhost: str, broker: Broker, url: str, engine: Engine, proxy: ProxyFactory
) -> None:
    way = await proxy(broker.address)
    async with relaying(relay_settings(vhost.replace(broker.address, way.address), url)) as (relay,):
        append(engine, 1)
        await eventually(lambda: count(engine) == 0)
        await way.refuse()
        await way.reset()
        append(engine, 2)
        await eventually(lambda: relay.status().startswith("waiting: no broker answers"))
        assert count(engine) == 1
        await way.start()
        await eventually(lambda: count(engine) == 0)
    assert await ids(shop) == [1, 2]


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
async def test_a_database_that_restarts_is_waited_for(shop: Publishing, vhost: str, name: str) -> None:
    require(name, installed=postgres_is_installed() if name == "postgresql" else mariadb_is_installed())
    with Postgres() if name == "postgresql" else Mariadb() as server:
        engine = create_engine(with_driver(server.url()), pool_pre_ping=True)
        Outbox().create(engine)
        async with relaying(relay_settings(vhost, server.url(), poll_interval=0.1)) as (relay,):
            append(engine, 1)
            await eventually(lambda: count(engine) == 0)
            await asyncio.to_thread(server.kill)
            await eventually(lambda: relay.status().startswith("waiting: the outbox's database"))
            await asyncio.to_thread(server.start)
            append(engine, 2)
            await eventually(lambda: count(engine) == 0)
        engine.dispose()
    assert await ids(shop) == [1, 2]


async def test_postgresql_wakes_the_relay_at_the_commit(shop: Publishing, vhost: str, database: str) -> None:
    engine = create_engine(with_driver(database))
    Outbox().create(engine)
    async with relaying(relay_settings(vhost, database, poll_interval=3600.0)) as (relay,):
        for number in range(3):
            await eventually(lambda: relay.status() == "relaying")
            append(engine, number)
            await eventually(lambda: count(engine) == 0)
    engine.dispose()
    assert await ids(shop) == [0, 1, 2]


async def test_an_event_of_a_transaction_that_stays_open_is_not_overtaken_by_later_ones_of_its_entity(
    shop: Publishing, vhost: str, shared: str
) -> None:
    engine = create_engine(shared)
    Outbox().create(engine)
    async with relaying(relay_settings(vhost, shared)):
        with engine.begin() as connection:
            Outbox().append(connection, Event("product_updated", {"id": "a", "version": 1}))
            append(engine, "b", "c")
            await eventually(lambda: count(engine) == 0)  # although the row of the other transaction is locked
        append(engine, "a", version=2)
        await eventually(lambda: count(engine) == 0)
    engine.dispose()
    events = [json.loads(message.body) for message in await shop.take(QUEUE)]
    assert [("b", None), ("c", None), ("a", 1), ("a", 2)] == [(event["id"], event.get("version")) for event in events]


def test_events_are_deleted_while_the_rows_of_an_open_transaction_are_locked(shared: str) -> None:
    engine = create_engine(shared)
    Outbox().create(engine)
    append(engine, *range(50))
    with engine.connect() as application, engine.begin() as connection:
        Outbox().append(application, Event("product_updated", {"id": "open"}))
        if engine.dialect.name == "mariadb":
            connection.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
        Outbox().forget(connection, Outbox().read(connection, limit=50))
    assert count(engine) == 0
    engine.dispose()


async def test_a_sweep_sees_nothing_that_is_committed_after_its_beginning(shared: str) -> None:
    engine = create_engine(shared, isolation_level="READ COMMITTED")
    Outbox().create(engine)
    session = OutboxSession(engine, OutboxSettings(batch_events=1))
    session.open()
    session.balance()
    with engine.begin() as connection:
        Outbox().append(connection, Event("product_updated", {"id": "late"}))
        append(engine, "a", "b")
        sweep = session.sweep()
        assert ["a"] == [event.entity for event in next(sweep)]
    append(engine, "late")
    assert ["b"] == [event.entity for events in sweep for event in events]
    assert ["late", "a", "b", "late"] == [event.entity for events in session.sweep() for event in events]
    session.close()
    engine.dispose()


def test_a_sweep_does_not_read_what_was_deleted_unless_a_transaction_may_still_commit_a_lower_id(database: str) -> None:
    # A table as small as this one PostgreSQL may read from end to end.
    by_index = {"options": "-c enable_seqscan=off -c enable_bitmapscan=off"}
    engine = create_engine(with_driver(database), connect_args=by_index)
    Outbox().create(engine)
    session = OutboxSession(engine, OutboxSettings(), clock=itertools.count().__next__)
    session.open()
    session.balance()
    with engine.connect() as dump, engine.connect() as writing:
        dump.execution_options(isolation_level="REPEATABLE READ").scalar(select(1))  # vacuum removes no row meanwhile
        Outbox().append(writing, Event("product_updated", {"id": "open"}))
        held_up = [relayed(engine, session) for _ in range(5)]
        writing.commit()
        pages = [relayed(engine, session) for _ in range(5)]
    session.close()
    engine.dispose()
    assert held_up[-1] > 2 * held_up[0], held_up
    assert pages[-1] < held_up[2], (held_up, pages)


MANY = (
    "INSERT INTO invalidator_outbox (entity, type, body, message_id, time, app_id)"
    " SELECT n, 'product_updated', '', n, now(), '' FROM generate_series(1, 3000) n"
)


def relayed(engine: Engine, session: OutboxSession) -> int:
    """Append many events and sweep them, as a relay does; return the pages that PostgreSQL reads for that."""
    with engine.begin() as connection:
        connection.execute(text(MANY))
    statements: list[tuple[str, Any]] = []

    def note(*executed: Any) -> None:
        _, _, statement, parameters, *_ = executed
        statements.append((statement, parameters))

    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    swept = [event for events in session.sweep() for event in events]
    sqlalchemy.event.remove(engine, "before_cursor_execute", note)
    pages = 0
    with engine.begin() as connection:
        for statement, parameters in statements:
            if "ORDER BY" in statement:
                explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
                ((plan,),) = connection.exec_driver_sql(explain, parameters).scalars()
                pages += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    session.delete(swept)
    session.swept(swept[-1].id, is_whole=True)
    return pages


async def test_relays_share_the_shards_of_entities_and_one_that_remains_takes_all(vhost: str, shared: str) -> None:
    engine = create_engine(shared)
    Outbox().create(engine)
    settings = relay_settings(vhost, shared)
    async with relaying(settings):
        await eventually(lambda: shards(engine) == [64])
        async with relaying(settings):
            await eventually(lambda: shards(engine) == [32, 32])
        await eventually(lambda: shards(engine) == [64])
    await eventually(lambda: shards(engine) == [])
    engine.dispose()


async def test_relays_claim_fair_shares_and_one_that_has_more_claims_nothing(shared: str) -> None:
    engine = create_engine(shared)
    Outbox().create(engine)
    with engine.connect() as one, engine.connect() as two, engine.connect() as three:
        a = claims_of(one)
        assert [(0, 64), (0, 64)] == [(a.balance(), len(a.shards)) for _ in range(2)]
        a.release(1)
        assert (0, 64) == (a.balance(), len(a.shards)), "it is alone, so it takes it back"
        b = claims_of(two)
        assert [(32, 64), (0, 0)] == [(a.balance(), len(a.shards)), (b.balance(), len(b.shards))]
        a.release(20)
        assert (12, 44) == (a.balance(), len(a.shards)), "it claims none of those that are free"
        assert (0, 20) == (b.balance(), len(b.shards))
        a.release(12)
        b.balance()
        assert (ALL, 32) == (a.shards | b.shards, len(b.shards))
        c = claims_of(three)
        for each in (a, b):
            each.release(each.balance())
        c.balance()
        assert (ALL, [20, 22, 22]) == (a.shards | b.shards | c.shards, sorted(map(len, (a.shards, b.shards, c.shards))))
        one.invalidate()
        # Once the server knows that the first one is gone, this is the share of two.
        await eventually(lambda: (0, 32) == (b.balance(), len(b.shards)))
    engine.dispose()


def claims_of(connection: Connection, table: str = TABLE) -> Claims:
    return LOCKS[connection.dialect.name](connection, table)


def test_relays_of_two_tables_claim_without_regard_to_each_other(shared: str) -> None:
    engine = create_engine(shared)
    tables = "products", "orders"
    with engine.connect() as one, engine.connect() as two:
        for table in tables:
            Outbox(table).create(engine)
        for claims in [claims_of(connection, table) for connection, table in zip((one, two), tables, strict=True)]:
            assert (0, 64) == (claims.balance(), len(claims.shards))
    engine.dispose()


def test_each_entity_belongs_to_one_shard_and_no_shard_is_empty(shared: str) -> None:
    engine = create_engine(shared)
    Outbox().create(engine)
    with engine.begin() as connection:
        Outbox().append_many(connection, (Event("product_updated", {"id": number}) for number in range(1000)))
        read = [Outbox().read(connection, limit=1000, shards=[shard]) for shard in range(SHARDS)]
        assert len(Outbox().read(connection, limit=1000, shards=range(SHARDS))) == 1000
    assert sorted(map(str, range(1000))) == sorted(event.entity for events in read for event in events)
    assert all(read)
    engine.dispose()


def test_mariadb_keeps_the_session_of_a_relay_that_polls_rarely(mariadb_database: str) -> None:
    engine = create_engine(with_driver(mariadb_database))
    Outbox().create(engine)
    session = OutboxSession(engine, OutboxSettings(poll_interval=100.0))
    session.open()
    assert session._connection
    assert 300 == session._connection.scalar(text("SELECT @@SESSION.wait_timeout"))
    session.close()
    engine.dispose()


def test_times_are_true_in_any_time_zone_of_a_session(database: str) -> None:
    engine = create_engine(with_driver(database), connect_args={"options": "-c timezone=Asia/Tokyo"})
    Outbox().create(engine)
    append(engine, 1)
    with engine.connect() as connection:
        (event,) = Outbox().read(connection, limit=1)
        _, oldest = Outbox().backlog(connection)
    assert oldest == event.message.time
    assert abs(datetime.now(UTC) - oldest) < timedelta(hours=1)
    engine.dispose()


async def test_a_listener_wakes_the_relay_when_it_is_connected_and_at_each_commit(database: str) -> None:
    engine, wake = create_engine(with_driver(database)), asyncio.Event()
    Outbox().create(engine)
    listening = asyncio.create_task(listen(engine.url, TABLE, wake))
    for add in (Outbox.append, lambda outbox, connection, event: outbox.append_many(connection, [event])):
        await asyncio.wait_for(wake.wait(), 30)
        wake.clear()
        with engine.begin() as connection:
            add(Outbox(), connection, Event("product_updated", {"id": 1}))
    await asyncio.wait_for(wake.wait(), 30)
    listening.cancel()
    engine.dispose()


async def test_a_session_that_is_closed_gives_its_claims_up(shared: str) -> None:
    engine = create_engine(shared)
    Outbox().create(engine)
    session = OutboxSession(engine, OutboxSettings())
    session.open()
    session.balance()
    assert [64] == shards(engine)
    session.release(24)
    assert [40] == shards(engine)
    session.close()
    await eventually(lambda: shards(engine) == [])
    engine.dispose()


async def test_a_relay_whose_machine_is_lost_keeps_its_claims_for_seconds_only(
    shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invalidator.relay.database.LOST_SECONDS", 1)
    engine = create_engine(shared)
    Outbox().create(engine)
    lost = OutboxSession(engine, OutboxSettings(poll_interval=0.1))
    lost.open()
    lost.balance()
    assert lost._connection
    if engine.dialect.name == "postgresql":  # the kernel of this machine answers for a process that hangs
        assert ["10"] == list(lost._connection.scalars(text("SHOW tcp_keepalives_idle")))
    else:
        await eventually(lambda: shards(engine) == [])
    lost.close()
    engine.dispose()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_that_shares_sessions_between_transactions_is_refused(
    postgres: Postgres, database: str, mode: str
) -> None:
    require("postgresql", installed=pgbouncer_is_installed())
    with PgBouncer(postgres, mode=mode) as pooler:
        settings = OutboxSettings(url=Secret(pooler.url(database.rpartition("/")[2])))
        engine = engine_of(settings)
        Outbox().create(engine)
        session = OutboxSession(engine, settings)
        with pytest.raises(ConfigurationError, match="pool_mode = session") if mode == "transaction" else nullcontext():
            session.open()
        session.close()
        engine.dispose()


def shards(engine: Engine) -> list[int]:
    """Return the number of shards that each relay has claimed."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            locks = (
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            holders = list(connection.scalars(text(locks)))
        else:
            prefix = lock_prefix(connection, TABLE)
            holders = [connection.scalar(select(func.is_used_lock(f"{prefix} {shard}"))) for shard in range(SHARDS)]
    return list(Counter(holder for holder in holders if holder).values())


def test_many_events_are_appended_in_order_and_a_bad_one_is_named_by_its_position(engine: Engine) -> None:
    outbox = Outbox(app_id="shop")
    with engine.begin() as connection:
        outbox.append_many(connection, (Event("product_updated", {"id": number}) for number in range(2500)))
    with engine.begin() as connection:
        events = outbox.read(connection, limit=3000)
        outbox.forget(connection, events[:2400])
    assert list(range(2500)) == [json.loads(event.message.body)["id"] for event in events]
    assert ["0", "2499"] == [events[0].entity, events[-1].entity]
    assert 100 == count(engine)
    bad = [Event("product_updated", {"id": 1}), Event("product_updated", {"id": object()})]
    with pytest.raises(PoisonError, match=r"^event 1: "), engine.begin() as connection:
        outbox.append_many(connection, bad)
    assert 100 == count(engine)


async def test_events_wait_for_the_clusters_queue_too(vhost: str, url: str, engine: Engine) -> None:
    append(engine, 1)
    async with relaying(relay_settings(vhost, url)) as (relay,):
        await eventually(lambda: relay.status().startswith("waiting: no queue is bound"))
        await declared(settings_for(vhost, {"c1": "127.0.0.1:11211"}))
        await eventually(lambda: count(engine) == 0)


async def test_a_first_round_that_is_refused_or_finds_no_table_ends_the_relay(vhost: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match="invalidator relay --create-table"):
        await Relay(relay_settings(vhost, url)).run(asyncio.Event())
    engine = create_engine(url)
    Outbox().create(engine)
    append(engine, 1)
    engine.dispose()
    settings = changed(relay_settings(vhost, url), "broker", password=Secret("wrong"))
    with pytest.raises(RefusedError, match="wrong user or password"):
        await Relay(settings).run(asyncio.Event())


def test_an_event_that_no_worker_could_read_fails_its_own_transaction(engine: Engine) -> None:
    with pytest.raises(PoisonError), engine.begin() as connection:
        Outbox().append(connection, Event("product_updated", {"id": object()}))
    assert count(engine) == 0


async def test_after_a_refusal_the_relay_reads_the_password_again(
    shop: Publishing, vhost: str, broker: Broker, url: str, engine: Engine, proxy: ProxyFactory
) -> None:
    name, way = vhost.rpartition("/")[2], await proxy(broker.address)
    settings = relay_settings(vhost.replace("guest:guest", f"{name}:old").replace(broker.address, way.address), url)
    known = ["old"]

    def read() -> Settings:
        return changed(settings, "broker", password=Secret(known[-1]))

    broker.api("PUT", f"/users/{name}", {"password": "old", "tags": ""})
    broker.api("PUT", f"/permissions/{name}/{name}", {"configure": "^$", "write": ".*", "read": "^$"})
    try:
        async with relaying(settings, read=read) as (relay,):
            append(engine, 1)
            await eventually(lambda: count(engine) == 0)
            broker.api("PUT", f"/users/{name}", {"password": "new", "tags": ""})
            await way.reset()
            append(engine, 2)
            await eventually(lambda: "wrong user or password" in relay.status())
            known.append("new")
            await eventually(lambda: count(engine) == 0)
    finally:
        broker.api("DELETE", f"/users/{name}")
    assert await ids(shop) == [1, 2]


# --- Processes -------------------------------------------------------------------------------------------------------


async def test_the_command_reports_ready_and_ends_in_good_order(
    shop: Publishing, vhost: str, url: str, engine: Engine, tmp_path: Path, notifications: Notifications
) -> None:
    append(engine, 1)
    with relay_process(relay_settings(vhost, url), tmp_path, NOTIFY_SOCKET=notifications.path) as process:
        await eventually(lambda: notifications.told("READY=1"))
        await eventually(lambda: notifications.told("WATCHDOG=1"))
        await eventually(lambda: count(engine) == 0)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
    assert notifications.told("STOPPING=1")
    assert notifications.told("STATUS=relaying")


def test_check_reports_the_backlog_of_the_outbox(engine: Engine, url: str) -> None:
    settings = OutboxSettings(url=Secret(url))
    append(engine, 1, 2)
    assert ("ok", "events waiting in invalidator_outbox: 2") == (
        check_outbox(settings).level,
        check_outbox(settings).text,
    )
    with engine.begin() as connection:
        connection.execute(update(Outbox().table).values(time=datetime.now(UTC) - timedelta(seconds=90)))
    late = check_outbox(settings)
    assert (late.level, late.exit_code) == ("wrong", 75)
    assert ": 2, the oldest for 90 s: no relay publishes them" in late.text
    assert "systemctl start invalidator-relay" in late.fix
    unnamed = check_outbox(OutboxSettings(url=Secret(url), table="elsewhere"))
    assert (unnamed.text, unnamed.exit_code) == ("there is no table elsewhere", 78)


@pytest.mark.parametrize(
    "url",
    ["sqlite:////no/such/folder/x", "postgresql://shop:secret@127.0.0.1:1/shop", "mariadb://shop:secret@127.0.0.1:1/x"],
)
def test_check_reports_an_unreachable_database_of_the_outbox(url: str) -> None:
    found = check_outbox(OutboxSettings(url=Secret(url)))
    assert (found.level, found.exit_code) == ("wrong", 69)
    assert "secret" not in found.text


@pytest.mark.parametrize(("scheme", "option"), [("postgresql", "connect_timeout"), ("mysql", "read_timeout")])
def test_check_does_not_wait_for_ever_for_a_database_that_is_silent(scheme: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://shop@127.0.0.1:{silent.getsockname()[1]}/shop"
        assert int(str(engine_of(OutboxSettings(url=Secret(url))).url.query[option])) <= READ_SECONDS
        found = check_outbox(OutboxSettings(url=Secret(f"{url}?{option}=2")))
    assert (found.level, found.exit_code) == ("wrong", 69)


async def test_the_command_creates_the_table(vhost: str, url: str, tmp_path: Path) -> None:
    settings = relay_settings(vhost, url)
    with relay_process(settings, tmp_path) as process:
        assert await asyncio.to_thread(process.wait, 60) == 78
    for _ in range(2):
        with relay_process(settings, tmp_path, "--create-table") as process:
            assert await asyncio.to_thread(process.wait, 60) == 0
    engine = create_engine(url)
    assert count(engine) == 0
    engine.dispose()


# --- Processes that are killed ---------------------------------------------------------------------------------------


async def test_no_event_is_lost_and_none_invented_when_applications_are_killed_after_their_commit(
    shop: Publishing, vhost: str, url: str, engine: Engine
) -> None:
    await _kill_applications(shop, vhost, url, engine, kills=30)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_event_is_lost_in_a_thousand_kills_of_applications(
    shop: Publishing, vhost: str, url: str, engine: Engine
) -> None:
    await _kill_applications(shop, vhost, url, engine, kills=1000)


async def _kill_applications(shop: Publishing, vhost: str, url: str, engine: Engine, *, kills: int) -> None:
    async with relaying(relay_settings(vhost, url)):
        await _crash("applications", url, str(kills))
        await eventually(lambda: count(engine) == 0)
    assert sorted(await ids(shop)) == list(range(kills))


async def test_no_event_is_lost_when_relays_are_killed_at_any_moment(
    shop: Publishing, vhost: str, url: str, engine: Engine, tmp_path: Path
) -> None:
    await _kill_relays(shop, vhost, url, engine, tmp_path, kills=15)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_event_is_lost_in_a_thousand_kills_of_relays(
    shop: Publishing, vhost: str, url: str, engine: Engine, tmp_path: Path
) -> None:
    repeated = await _kill_relays(shop, vhost, url, engine, tmp_path, kills=1000)
    assert repeated, "some were killed between a publish and its end in the table"


async def _kill_relays(shop: Publishing, vhost: str, url: str, engine: Engine, folder: Path, *, kills: int) -> int:
    """Return the number of events that were published again."""
    file = configuration(relay_settings(vhost, url, batch_events=10), folder)
    crashing = asyncio.create_task(_crash("relays", str(file), str(kills), "1"))
    committed = 0
    while not crashing.done():
        append(engine, *range(committed, committed + 5))
        committed += 5
        await asyncio.sleep(0.05)
    await crashing
    async with relaying(relay_settings(vhost, url)):
        await eventually(lambda: count(engine) == 0, within=120)
    received = await ids(shop)
    assert sorted(set(received)) == list(range(committed))
    return len(received) - committed


async def _crash(*arguments: str) -> None:
    command = [sys.executable, "-m", "tests.integration.crashes", *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    _, error = await process.communicate()
    assert process.returncode == 0, error.decode()
