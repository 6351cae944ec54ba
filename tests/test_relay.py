"""A relay without servers: an outbox in memory, and a broker that confirms what the test wants."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import pytest

from invalidator.app.publish.message import message
from invalidator.app.publish.outbox import OutboxEvent
from invalidator.errors import ConfigurationError, InvalidatorError, UnconfirmedError, UnreachableError
from invalidator.relay.database import engine_of
from invalidator.relay.drain import Drain
from invalidator.relay.relay import STUCK_SECONDS, Relay
from invalidator.settings import OutboxSettings, Secret, Settings

T = TypeVar("T")


class Rows:
    """An outbox: ids and entities, read two at a time."""

    def __init__(self, *entities: str) -> None:
        self.rows = dict(enumerate(entities, start=1))
        self.surplus = 0
        self.released: list[int] = []
        self.is_lost = False

    def balance(self) -> int:
        return self.surplus

    def release(self, surplus: int) -> None:
        self.released.append(len(self.rows))
        self.surplus = 0

    def sweep(self, without: Collection[str] = ()) -> Iterator[list[OutboxEvent]]:
        rows = [(number, entity) for number, entity in self.rows.items() if entity not in without]
        for start in range(0, len(rows), 2):
            yield [event(number, entity) for number, entity in rows[start : start + 2]]

    def delete(self, events: Collection[OutboxEvent]) -> None:
        if self.is_lost:
            raise UnreachableError("the database is gone")
        for event in events:
            del self.rows[event.id]


class Broker:
    """A sink that confirms every event at once, but those that the test holds or fails.

    A failure is known once ``known_after`` events are written, as with thousands of messages in flight.
    """

    def __init__(self, *, failing: Collection[int] = (), known_after: int = 0, held: Collection[int] = ()) -> None:
        self.published: list[int] = []
        self.held = set(held)
        self._failing = set(failing)
        self._known_after = known_after
        self._sent: list[OutboxEvent] = []
        self._changed = asyncio.Event()

    @property
    def failure(self) -> InvalidatorError | None:
        is_known = self._failing.intersection(self.published) and len(self.published) >= self._known_after
        return UnconfirmedError("not this one") if is_known else None

    async def publish(self, event: OutboxEvent) -> None:
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        self.published.append(event.id)
        if len(self.published) > 100:
            self.confirm()
            raise AssertionError("the same events are published again and again")
        self._sent.append(event)
        self._changed.set()

    async def flush(self) -> None:
        while any(event.id in self.held for event in self._sent):
            self._changed.clear()
            await self._changed.wait()
        if self.failure:
            raise self.failure

    async def next_confirmed(self) -> list[OutboxEvent]:
        while not (events := self.take_confirmed()):
            if self.failure:
                raise self.failure
            self._changed.clear()
            await self._changed.wait()
        return events

    def take_confirmed(self) -> list[OutboxEvent]:
        taken = []
        while self._sent and self._is_confirmed(self._sent[0]):
            taken.append(self._sent.pop(0))
        return taken

    def left(self) -> list[tuple[OutboxEvent, bool]]:
        return [(event, self._is_confirmed(event)) for event in self._sent]

    def confirm(self) -> None:
        self.held.clear()
        self._changed.set()

    def _is_confirmed(self, event: OutboxEvent) -> bool:
        return event.id not in self.held | self._failing


def event(number: int, entity: str) -> OutboxEvent:
    return OutboxEvent(number, entity, message("product_updated", {"number": number}, app_id=""))


async def inline(function: Callable[..., T], *arguments: object) -> T:
    return function(*arguments)


def drain_of(rows: Rows, broker: Broker, *, without: Callable[[], Collection[str]] = tuple) -> Drain:
    return Drain(rows, broker, blocking=inline, relayed=lambda _: None, without=without)


async def drained(rows: Rows, broker: Broker) -> Drain:
    """Drain until the rows are gone, or something fails."""
    drain, stopping = drain_of(rows, broker), asyncio.Event()

    async def wait() -> None:
        await asyncio.sleep(0.001)
        if not rows.rows:
            stopping.set()

    await drain.run(stopping, wait)
    return drain


async def test_events_are_published_in_the_order_of_their_ids_and_deleted() -> None:
    rows, broker = Rows("a", "b", "a", "c", "b"), Broker()
    await drained(rows, broker)
    assert ({}, [1, 2, 3, 4, 5]) == (rows.rows, broker.published)


async def test_after_a_failure_only_the_events_behind_it_of_its_entity_stay_in_the_table() -> None:
    rows, broker = Rows("a", "b", "a", "b", "a"), Broker(failing=[3], known_after=5)
    drain = drain_of(rows, broker)
    with pytest.raises(UnconfirmedError, match="not this one"):
        await drain.run(asyncio.Event(), lambda: asyncio.sleep(0.001))
    assert ({3: "a", 5: "a"}, [1, 2, 3, 4, 5], "a") == (rows.rows, broker.published, drain.failed)


async def test_nothing_is_published_after_a_failure_that_is_known() -> None:
    rows, broker = Rows("a", "b", "a", "b", "a"), Broker(failing=[1])
    with pytest.raises(UnconfirmedError):
        await drained(rows, broker)
    assert ([1], 5) == (broker.published, len(rows.rows))


async def test_an_event_in_flight_is_left_out_of_the_next_sweep() -> None:
    rows, broker = Rows("a", "b"), Broker(held=[1])
    sweeps = 0

    async def wait() -> None:
        nonlocal sweeps
        sweeps += 1
        if sweeps == 3:
            rows.rows[3] = "a"
        if sweeps == 5:
            broker.confirm()
            stopping.set()

    stopping = asyncio.Event()
    await drain_of(rows, broker).run(stopping, wait)
    assert ({}, [1, 2, 3]) == (rows.rows, broker.published)


async def test_shards_are_released_once_nothing_of_theirs_is_in_flight() -> None:
    rows, broker = Rows("a"), Broker()
    rows.surplus = 32
    drain = drain_of(rows, broker)
    await drain.first(asyncio.Event())
    assert [1] == rows.released, "before anything was published"
    rows.rows, rows.surplus, rows.released, drain._balanced = {2: "a"}, 32, [], -1.0
    broker.held.add(2)
    await drain._sweep(asyncio.Event())
    rows.surplus, rows.released, drain._balanced = 32, [], -1.0
    releasing = asyncio.create_task(drain._balance())
    await asyncio.sleep(0.01)
    assert [] == rows.released
    broker.confirm()
    await releasing
    assert [0] == rows.released


async def test_an_entity_that_is_left_out_is_not_published_until_it_no_longer_is() -> None:
    rows, broker, left_out = Rows("a", "b", "a"), Broker(), ["a"]
    drain = drain_of(rows, broker, without=lambda: left_out)
    await drain.first(asyncio.Event())
    assert {1: "a", 3: "a"} == rows.rows
    left_out.clear()
    await drain.first(asyncio.Event())
    assert {} == rows.rows


async def test_a_lost_database_ends_the_session() -> None:
    rows, broker = Rows("a", "b"), Broker()
    rows.is_lost = True
    with pytest.raises(UnreachableError, match="the database is gone"):
        await drained(rows, broker)


def relay() -> Relay:
    return Relay(Settings(outbox=OutboxSettings(url=Secret("sqlite://"))))


def test_an_entity_that_fails_twice_in_a_row_is_left_out_for_a_while() -> None:
    relaying = relay()
    relaying._suspect("a")
    assert [] == relaying._leave_out()
    relaying._suspect("b")
    relaying._suspect("b")
    assert ["b"] == relaying._leave_out()
    relaying._left_out["b"] = time.monotonic()
    assert [] == relaying._leave_out()


def test_a_session_without_a_failure_clears_the_suspicion() -> None:
    relaying = relay()
    for failed in ("a", None, "a"):
        relaying._suspect(failed)
    assert [] == relaying._leave_out()


def test_a_statement_that_takes_too_long_is_reported_as_stuck() -> None:
    relaying = relay()
    relaying._under_way.append(time.monotonic() - STUCK_SECONDS - 1)
    assert (False, "starting; a statement is stuck") == (relaying.health().is_live, relaying.health().status)


async def test_an_outage_is_logged_once_and_not_at_every_try(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invalidator.relay.relay.pause", lambda: 0.0)
    relaying = relay()
    for _ in range(20):
        await relaying._survive(UnreachableError("no broker answers"), asyncio.Event())
    assert ["cannot publish from the outbox; events stay in the table, retrying reason='no broker answers'"] == (
        caplog.messages
    )


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, '"outbox.url" is missing'),
        ("postgres at home", "should read postgresql://"),
        ("mongodb://shop:secret@db/shop", "should read postgresql://"),
    ],
)
def test_an_invalid_url_is_refused_and_not_quoted(url: str | None, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        engine_of(OutboxSettings(url=Secret(url) if url else None))
    assert "secret" not in str(raised.value)


def test_libpqs_own_form_of_a_url_means_psycopg() -> None:
    engine = engine_of(OutboxSettings(url=Secret("postgresql://shop@db/shop")))
    assert engine.dialect.driver == "psycopg"
