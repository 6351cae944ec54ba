"""The relay as a service: a real outbox in SQLite, and a broker without a server that answers as the test wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import create_engine, select

from invalidator.app.publish.outbox import Outbox, OutboxEvent
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError, UnreachableError
from invalidator.events.event import Event
from invalidator.relay import relay as module
from invalidator.relay.relay import STUCK_SECONDS, Relay
from invalidator.settings import BrokerSettings, OutboxSettings, Secret, Settings
from tests.confirming import Broker
from tests.logs import capture_logs


class Shop:
    """An application with an outbox, and the broker that a relay of it finds."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "shop.db"
        self.engine = create_engine(f"sqlite:///{self.database}")
        Outbox().create(self.engine)
        #: One for each session of a relay.
        self.publishers: list[Publisher] = []
        #: What connecting raises.
        self.refusal: InvalidatorError | None = None
        #: Ids of events that the broker does not confirm, for now or ever.
        self.held: set[int] = set()
        self.failing: set[int] = set()

    def append(self, *entities: str) -> None:
        with self.engine.begin() as connection:
            for entity in entities:
                Outbox().append(connection, Event("product_updated", {"id": entity}))

    def statement(self, sql: str) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql)

    def waiting(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.scalars(select(Outbox().table.c.entity)))

    def published(self) -> list[str]:
        return [entity for publisher in self.publishers for entity in publisher.entities]

    def publisher(self, broker: BrokerSettings, **_: Any) -> "Publisher":
        self.publishers.append(Publisher(self, broker))
        return self.publishers[-1]


class Publisher:
    """Stands for `PipelinedPublisher`."""

    def __init__(self, shop: Shop, settings: BrokerSettings) -> None:
        self.settings = settings
        self.broker = Broker(held=shop.held, failing=shop.failing)
        self.flush, self.next_confirmed = self.broker.flush, self._next_confirmed
        self.take_confirmed, self.left = self.broker.take_confirmed, self.broker.left
        self.opened = self.closed = 0
        self.entities: list[str] = []
        self.types: list[str] = []
        self._shop = shop

    async def open(self) -> None:
        self.opened += 1
        if self._shop.refusal:
            raise self._shop.refusal

    async def publish(self, body: bytes, properties: Any, item: OutboxEvent) -> None:
        assert body == item.message.body
        self.entities.append(item.entity)
        self.types.append(properties.type)
        await self.broker.publish(item)

    async def close(self) -> None:
        self.closed += 1

    async def _next_confirmed(self) -> list[OutboxEvent]:
        assert self.opened, "before that, nothing can be waited for"
        return await self.broker.next_confirmed()


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    monkeypatch.setattr(module, "PipelinedPublisher", shop.publisher)
    monkeypatch.setattr(module, "pause", lambda: 0.001)
    yield shop
    shop.engine.dispose()


def relay_of(shop: Shop, *, read: Callable[[], Settings] | None = None, poll_interval: float = 0.001) -> Relay:
    return Relay(settings_of(shop, poll_interval=poll_interval), read=read)


def settings_of(shop: Shop, *, poll_interval: float = 0.001) -> Settings:
    return Settings(outbox=OutboxSettings(url=Secret(f"sqlite:///{shop.database}"), poll_interval=poll_interval))


@asynccontextmanager
async def running(relay: Relay) -> AsyncIterator[Relay]:
    """Run a relay, and stop it in good order."""
    stopping = asyncio.Event()
    task = asyncio.create_task(relay.run(stopping))
    try:
        yield relay
    finally:
        stopping.set()
        await task


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


# What it publishes


async def test_committed_events_are_published_on_one_connection_and_deleted(shop: Shop) -> None:
    shop.append("a")
    async with running(relay_of(shop)) as relay:
        await relay.tried.wait()
        assert [] == shop.waiting()
        shop.append("b", "c")
        await eventually(lambda: [] == shop.waiting())
    (publisher,) = shop.publishers
    assert (["a", "b", "c"], 1, 1) == (publisher.entities, publisher.opened, publisher.closed)
    assert ["product_updated"] * 3 == publisher.types


async def test_events_in_flight_are_waited_for_before_it_ends(shop: Shop) -> None:
    shop.append("a")
    shop.held.add(1)
    relay, stopping = relay_of(shop), asyncio.Event()
    ending = asyncio.create_task(relay.run(stopping))
    await eventually(lambda: ["a"] == shop.published())
    stopping.set()
    await eventually(lambda: "stopping" == relay.status())
    assert not ending.done()
    shop.publishers[0].broker.confirm()
    await ending
    assert [] == shop.waiting()


async def test_an_idle_relay_ends_at_once_when_it_is_stopped(shop: Shop) -> None:
    async with running(relay_of(shop, poll_interval=3600)) as relay:
        await eventually(lambda: "relaying" == relay.status())


async def test_between_two_polls_it_rests_until_something_wakes_it(shop: Shop) -> None:
    relay = relay_of(shop, poll_interval=3600)
    relay._wake.set()
    await relay._rest()
    resting = asyncio.create_task(relay._rest())
    await asyncio.sleep(0.01)
    assert not resting.done(), "one wakeup ends one rest"
    relay._wake.set()
    await resting


async def test_nothing_of_it_is_left_when_it_has_ended(shop: Shop) -> None:
    shop.append("a")
    async with running(relay_of(shop)):
        await eventually(lambda: [] == shop.waiting())
    shop.engine.dispose()
    assert [] == open_files(shop.database)
    shop.refusal = RefusedError("wrong password")
    shop.append("b")
    with pytest.raises(RefusedError):
        await relay_of(shop).run(asyncio.Event())
    assert {asyncio.current_task()} == asyncio.all_tasks()


def open_files(database: Path) -> list[str]:
    """Return the open files of a database: its own, its journal and the relay's lock."""
    files = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [file for file in files if file.startswith(str(database))]


# Failures


@pytest.mark.parametrize("failure", [RefusedError("wrong password"), ConfigurationError("no such exchange")])
async def test_a_first_session_that_is_refused_ends_it(shop: Shop, failure: InvalidatorError) -> None:
    shop.append("a")
    shop.refusal = failure
    relay = relay_of(shop)
    with pytest.raises(type(failure), match=str(failure)):
        await relay.run(asyncio.Event())
    assert (1, True) == (len(shop.publishers), relay.tried.is_set())


async def test_an_absent_broker_is_waited_for_and_its_absence_is_logged_once(shop: Shop) -> None:
    shop.append("a")
    shop.refusal = UnreachableError("no broker answers")
    with capture_logs() as lines:
        async with running(relay_of(shop)) as relay:
            await eventually(lambda: len(shop.publishers) > 3)
            assert (relay.tried.is_set(), relay.health().is_ready) == (True, False)
            assert "waiting: no broker answers" == relay.status()
            shop.refusal = None
            await eventually(lambda: "relaying" == relay.status())
            assert ([], True) == (shop.waiting(), relay.health().is_ready)
    assert [1] * len(shop.publishers) == [publisher.closed for publisher in shop.publishers]
    assert ["cannot publish from the outbox; events stay in the table, retrying", "relayed"] == [
        line["event"] for line in lines
    ]
    assert "no broker answers" == lines[0]["reason"]


async def test_each_outage_is_logged(shop: Shop) -> None:
    relay = relay_of(shop)
    with capture_logs() as lines:
        for _ in range(2):
            await relay._survive(UnreachableError("no broker answers"), asyncio.Event())
            relay._relayed(0)
    assert ["no broker answers"] * 2 == [line["reason"] for line in lines]


async def test_once_it_has_worked_a_refusal_is_waited_for_and_the_settings_are_read_again(shop: Shop) -> None:
    urls = ["amqp://shop:old@broker"]

    def read() -> Settings:
        return Settings(broker=BrokerSettings(url=urls[-1]))

    async with running(relay_of(shop, read=read)) as relay:
        shop.append("a")
        await eventually(lambda: [] == shop.waiting())
        shop.refusal = RefusedError("wrong password")
        shop.publishers[0].broker.failing.add(2)
        shop.append("b")
        await eventually(lambda: "waiting: wrong password" == relay.status())
        urls.append("amqp://shop:new@broker")
        shop.refusal = None
        await eventually(lambda: [] == shop.waiting())
    assert urls == [shop.publishers[0].settings.url, shop.publishers[-1].settings.url]


async def test_it_pauses_between_two_tries_and_ends_at_once_when_it_is_stopped_then(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "pause", lambda: 3600.0)
    shop.append("a")
    shop.refusal = UnreachableError("no broker answers")
    async with running(relay_of(shop)) as relay:
        await eventually(lambda: "waiting: no broker answers" == relay.status())
        await asyncio.sleep(0.02)
    assert 1 == len(shop.publishers)


async def test_an_event_that_fails_again_and_again_stops_only_its_entity(shop: Shop) -> None:
    shop.failing.add(1)
    shop.append("a", "b", "a")
    async with running(relay_of(shop)):
        await eventually(lambda: ["a", "a"] == shop.waiting())
        shop.append("c")
        await eventually(lambda: ["a", "a"] == shop.waiting())


async def test_events_whose_deletion_fails_are_published_again_and_deleted(shop: Shop) -> None:
    shop.statement(
        "CREATE TRIGGER never BEFORE DELETE ON invalidator_outbox BEGIN SELECT RAISE(ABORT, 'a full disk'); END"
    )
    shop.append("a")
    async with running(relay_of(shop)) as relay:
        await eventually(lambda: "waiting: the outbox's database: a full disk" == relay.status())
        shop.statement("DROP TRIGGER never")
        await eventually(lambda: "relaying" == relay.status())
        assert [] == shop.waiting()


def test_an_entity_that_fails_twice_in_a_row_is_left_out_for_a_while(shop: Shop) -> None:
    relay = relay_of(shop)
    relay._suspect(None)
    relay._suspect("a")
    assert [] == relay._leave_out()
    relay._suspect("b")
    relay._suspect("b")
    assert ["b"] == relay._leave_out()
    relay._left_out["b"] = time.monotonic()
    assert [] == relay._leave_out()


def test_a_session_without_a_failure_clears_the_suspicion(shop: Shop) -> None:
    relay = relay_of(shop)
    for failed in ("a", None, "a"):
        relay._suspect(failed)
    assert [] == relay._leave_out()


# What it says


async def test_events_are_counted_and_logged_once_a_second_at_most(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    relay, before = relay_of(shop), relayed()
    with capture_logs() as lines:
        for count in (0, 2, 3, 0):
            relay._relayed(count)
        monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
        relay._log_at = 0.0
        for count in (1, 5):
            relay._relayed(count)
    assert 11 == relayed() - before
    assert [("relayed", 2), ("relayed", 4), ("relayed", 5)] == [(line["event"], line["events"]) for line in lines]


def relayed() -> float:
    return REGISTRY.get_sample_value("invalidator_relayed_total") or 0.0


async def test_only_a_statement_that_takes_too_long_is_reported_as_stuck(shop: Shop) -> None:
    relay, released = relay_of(shop), asyncio.Event()
    loop = asyncio.get_running_loop()

    def statement() -> str:
        assert ("starting", True) == (relay.status(), relay.health().is_live)
        relay._under_way[0] -= STUCK_SECONDS
        assert ("starting; a statement is stuck", False) == (relay.status(), relay.health().is_live)
        loop.call_soon_threadsafe(released.set)
        relay._under_way[0] += STUCK_SECONDS
        return "its answer"

    assert "its answer" == await relay._blocking(statement)
    await released.wait()
    assert ("starting", []) == (relay.status(), relay._under_way)


@pytest.mark.parametrize(("url", "listens"), [("postgresql://shop@db/shop", True), ("sqlite://", False)])
async def test_only_postgresql_wakes_it(monkeypatch: pytest.MonkeyPatch, url: str, listens: bool) -> None:
    calls: list[tuple[str, str, asyncio.Event]] = []

    async def listen(database: Any, channel: str, wake: asyncio.Event) -> None:
        calls.append((database.host, channel, wake))

    monkeypatch.setattr("invalidator.relay.notifications.listen", listen)
    relay = Relay(Settings(outbox=OutboxSettings(url=Secret(url), table="events")))
    await relay._listen()
    assert ([("db", "events", relay._wake)] if listens else []) == calls
