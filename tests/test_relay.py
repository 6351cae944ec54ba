"""One session of a relay, without servers: an outbox in memory, and a broker that confirms what the test wants."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import pytest

from invalidator.app.publish.outbox import OutboxEvent
from invalidator.errors import UnconfirmedError, UnreachableError
from invalidator.relay.drain import DELETE_SECONDS, Blocking, Drain
from tests.confirming import Broker, event
from tests.virtual_time import in_virtual_time

T = TypeVar("T")


class Rows:
    """An outbox: ids and entities, read two at a time."""

    def __init__(self, *entities: str) -> None:
        self.rows = dict(enumerate(entities, start=1))
        self.surplus = 0
        self.released: list[int] = []
        self.passed: list[tuple[int, bool]] = []
        self.is_lost = False
        self.sweeps = self.counts = self.deletions = 0

    def balance(self) -> int:
        self.counts += 1
        return self.surplus

    def release(self, surplus: int) -> None:
        self.released.append(len(self.rows))
        self.surplus = 0

    def sweep(self, without: Collection[str] = ()) -> Iterator[list[OutboxEvent]]:
        self.sweeps += 1
        rows = [(number, entity) for number, entity in self.rows.items() if entity not in without]
        for start in range(0, len(rows), 2):
            yield [event(number, entity) for number, entity in rows[start : start + 2]]

    def swept(self, through: int, *, is_whole: bool) -> None:
        self.passed.append((through, is_whole))

    def delete(self, events: Collection[OutboxEvent]) -> None:
        if self.is_lost:
            raise UnreachableError("the database is gone")
        self.deletions += 1
        for each in events:
            del self.rows[each.id]


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def slow(self, seconds: float) -> Blocking:
        """Return a `drain.Blocking` whose functions take so long."""

        async def run(function: Callable[..., T], *arguments: object) -> T:
            self.now += seconds
            return function(*arguments)

        return run


async def forever() -> None:
    await asyncio.Event().wait()


async def inline(function: Callable[..., T], *arguments: object) -> T:
    return function(*arguments)


async def in_a_thread(function: Callable[..., T], *arguments: object) -> T:
    return await asyncio.to_thread(function, *arguments)


def drain_of(rows: Rows, broker: Broker, *, without: Callable[[], Collection[str]] = tuple) -> Drain:
    return Drain(rows, broker, blocking=inline, relayed=lambda _: None, without=without)


async def once(drain: Drain, *, rests: int = 1) -> None:
    """Drain until nothing more is found, so often."""
    stopping = asyncio.Event()

    async def wait() -> None:
        nonlocal rests
        rests -= 1
        if not rests:
            stopping.set()

    await drain.run(stopping, wait)


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
    await once(drain)
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
    await once(drain)
    assert {1: "a", 3: "a"} == rows.rows
    left_out.clear()
    await once(drain)
    assert {} == rows.rows


# Sweeps


async def test_sweeps_follow_each_other_without_a_rest_while_they_find_events() -> None:
    rows, broker = Rows("a", "b", "c"), Broker()
    await once(drain_of(rows, broker), rests=3)
    assert 4 == rows.sweeps, "the first found events"


async def test_an_empty_outbox_is_reported_at_each_rest() -> None:
    relayed: list[int] = []
    await once(Drain(Rows(), Broker(), blocking=inline, relayed=relayed.append), rests=2)
    assert [0, 0] == relayed


async def test_a_rest_ends_when_the_session_does() -> None:
    rows, broker, resting = Rows("a"), Broker(held=[1]), asyncio.Event()
    running = asyncio.create_task(drain_of(rows, broker).run(asyncio.Event(), resting.wait))
    while rows.sweeps < 2:
        await asyncio.sleep(0)
    rows.is_lost = True
    broker.confirm()
    with pytest.raises(UnreachableError):
        await running
    await asyncio.sleep(0)
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_a_stop_ends_the_sweep_and_waits_for_the_events_in_flight() -> None:
    rows, broker, stopping = Rows("a", "b", "c", "d"), Broker(held=[1]), asyncio.Event()
    running = asyncio.create_task(drain_of(rows, broker).run(stopping, forever))
    while not broker.published:
        await asyncio.sleep(0)
    stopping.set()
    await asyncio.sleep(0.01)
    assert ([1, 2], 4, False) == (broker.published, len(rows.rows), running.done())
    broker.confirm()
    await running
    assert {3: "c", 4: "d"} == rows.rows


async def test_what_is_in_flight_is_not_reported_as_relayed() -> None:
    rows, broker = Rows("a"), Broker(held=[1])
    relayed: list[int] = []
    drain = Drain(rows, broker, blocking=inline, relayed=relayed.append)
    running = asyncio.create_task(once(drain, rests=3))
    await asyncio.sleep(0.01)
    assert ([], False) == (relayed, running.done())
    broker.confirm()
    await running
    assert ({}, 1) == (rows.rows, relayed[0])


async def test_a_sweep_ends_after_a_second_so_that_events_committed_late_do_not_wait_for_its_end() -> None:
    rows, broker, clock = Rows(*"abcdefgh"), Broker(), Clock()
    drain = Drain(rows, broker, blocking=clock.slow(0.4), relayed=lambda _: None, clock=clock)
    assert 4 == await drain._sweep(asyncio.Event())
    assert ([1, 2, 3, 4], [(4, False)]) == (broker.published, rows.passed)


async def test_the_outbox_hears_how_far_each_sweep_came_and_nothing_of_one_that_failed() -> None:
    rows, broker = Rows("a", "b", "a"), Broker(held=[1, 2, 3, 4])
    drain = drain_of(rows, broker)
    assert 3 == await drain._sweep(asyncio.Event())
    rows.rows[4] = "c"
    assert 1 == await drain._sweep(asyncio.Event()), "the others are in flight"
    assert 0 == await drain._sweep(asyncio.Event())
    broker.failing = {1}
    rows.rows[5] = "c"
    with pytest.raises(UnconfirmedError):
        await drain._sweep(asyncio.Event())
    assert [(3, True), (4, True), (4, True)] == rows.passed


async def test_relays_are_counted_once_a_second() -> None:
    rows, clock = Rows(), Clock()
    drain = Drain(rows, Broker(), blocking=inline, relayed=lambda _: None, clock=clock)
    for now, counts in ((100.0, 1), (100.5, 1), (101.1, 2), (101.2, 2)):
        clock.now = now
        await drain._sweep(asyncio.Event())
        assert counts == rows.counts


async def test_while_no_shard_has_to_be_released_nothing_in_flight_is_waited_for() -> None:
    rows, broker, clock = Rows("a"), Broker(held=[1]), Clock()
    drain = Drain(rows, broker, blocking=inline, relayed=lambda _: None, clock=clock)
    for _ in range(2):
        await drain._sweep(asyncio.Event())
        clock.now += 2.0
    assert ([1], []) == (broker.published, rows.released)


# Deletions


@in_virtual_time
async def test_events_that_are_confirmed_one_by_one_are_deleted_many_at_a_time() -> None:
    rows, broker, stopping = Rows(*"abcdefghij"), Broker(held=range(1, 11)), asyncio.Event()
    running = asyncio.create_task(drain_of(rows, broker).run(stopping, stopping.wait))
    for number in range(1, 11):
        await asyncio.sleep(DELETE_SECONDS / 5)
        broker.confirm(number)
    await asyncio.sleep(2 * DELETE_SECONDS)
    assert ({}, 3) == (rows.rows, rows.deletions)
    stopping.set()
    await running


async def test_a_session_that_fails_before_it_deletes_anything_reports_no_event() -> None:
    rows, broker = Rows("a", "b"), Broker(failing=[1, 2], known_after=2)
    relayed: list[int] = []
    drain = Drain(rows, broker, blocking=inline, relayed=relayed.append)
    with pytest.raises(UnconfirmedError):
        await once(drain, rests=10)
    assert ([], "a") == (relayed, drain.failed), "of two entities that failed, the first"


async def test_a_lost_database_ends_the_session_and_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    rows, broker = Rows("a"), Broker()
    rows.is_lost = True
    with pytest.raises(UnreachableError, match="the database is gone"):
        await once(drain_of(rows, broker), rests=10)
    gc.collect()
    assert [] == caplog.messages


async def test_a_database_that_is_lost_while_the_last_events_are_waited_for_leaves_them_in_the_table() -> None:
    rows, broker, stopping = Rows("a"), Broker(held=[1]), asyncio.Event()
    running = asyncio.create_task(drain_of(rows, broker).run(stopping, stopping.wait))
    while not broker.published:
        await asyncio.sleep(0)
    stopping.set()
    await asyncio.sleep(0.01)
    rows.is_lost = True
    broker.confirm()
    await running
    assert {1: "a"} == rows.rows


async def test_nothing_of_a_session_is_left_when_it_has_ended() -> None:
    await once(drain_of(Rows(), Broker()))
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_no_statement_runs_in_the_thread_of_the_event_loop_or_beside_another() -> None:
    rows, broker = Rows(*"abcdef"), Broker()
    rows.surplus = 32
    slow = SlowRows(rows)
    await once(Drain(slow, broker, blocking=in_a_thread, relayed=lambda _: None))
    assert ({}, [6]) == (rows.rows, rows.released)
    rows.rows, stopping, wait = {7: "g", 8: "h", 9: "i", 10: "j", 11: "k"}, asyncio.Event(), forever
    running = asyncio.create_task(Drain(slow, broker, blocking=in_a_thread, relayed=lambda _: None).run(stopping, wait))
    while 7 not in broker.published:
        await asyncio.sleep(0)
    stopping.set()  # the next batch is being read
    await running
    assert {9: "i", 10: "j", 11: "k"} == rows.rows
    assert {"balance", "release", "sweep", "the end of a sweep", "delete"} == slow.seen


class SlowRows:
    """An outbox whose statements take a while, and notice in which thread they run."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.seen: set[str] = set()

    def balance(self) -> int:
        return self._statement("balance", self._rows.balance)

    def release(self, surplus: int) -> None:
        self._statement("release", self._rows.release, surplus)

    def sweep(self, without: Collection[str] = ()) -> Iterator[list[OutboxEvent]]:
        try:
            for events in self._rows.sweep(without):
                yield self._statement("sweep", lambda events: events, events)
        finally:
            self._statement("the end of a sweep", lambda: None)

    def swept(self, through: int, *, is_whole: bool) -> None:
        self._rows.swept(through, is_whole=is_whole)

    def delete(self, events: Collection[OutboxEvent]) -> None:
        self._statement("delete", self._rows.delete, events)

    def _statement(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        is_ours = threading.current_thread() is threading.main_thread()
        self.seen.add(f"{name} in the event loop's thread" if is_ours else name)
        time.sleep(0.002)
        return function(*arguments)
