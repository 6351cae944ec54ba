"""Many readers of one process on one missing key: one load, however long it takes and however it ends."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from invalidator.app import AsyncLookAsideCache, Loaded, LookAsideCache
from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, Join, Load, Reading, ReadOutcome, Steps
from invalidator.app.cache.freshness import Source
from invalidator.app.cache.items import LEASE, Item, Json
from invalidator.app.cache.multi import together
from invalidator.app.cache.reader import Reader, Terms
from tests.lying_memcached import LyingMemcached

K = "k"
MINE = Item(b"mine", LEASE)
TERMS = Terms(ttl=60, negative_ttl=60)
READERS = 40


class NoDatabaseError(Exception):
    pass


# Step by step


class Process:
    """Readers of one process, each of which says that it is another thread."""

    def __init__(self, **options: Any) -> None:
        self._readers = iter(range(100))
        self._reader = Reader(
            Source(), Json(), patience=0, new_placeholder=lambda: MINE, uniform=max, current=self._next, **options
        )

    def _next(self) -> int:
        return next(self._readers)

    def read(self) -> Steps:
        return self._reader.read(K, TERMS)

    def begin(self) -> Steps:
        steps = self.read()
        assert Get(K) == next(steps)
        return steps

    def begin_load(self, steps: Steps) -> None:
        assert Add(K, MINE, 30) == steps.send(None)
        assert Load(K) == steps.send(True)


def end(steps: Steps, answer: Any) -> Reading:
    with pytest.raises(StopIteration) as ended:
        steps.send(answer)
    reading: Reading = ended.value.value
    return reading


def test_readers_that_began_before_the_load_share_it_and_each_gets_a_value_of_its_own() -> None:
    process = Process()
    first, second, third = process.begin(), process.begin(), process.begin()
    process.begin_load(first)
    assert isinstance(second.send(MINE), Join)
    assert isinstance(third.send(Failure.DOWN), Join)
    assert Gets(K) == first.send(Loaded([1]))
    mine = end(first, None)
    shared = [end(second, None), end(third, None)]
    assert [Reading([1], ReadOutcome.SHARED)] * 2 == shared
    assert 3 == len({id(reading.value) for reading in (mine, *shared)})


def test_reader_that_began_after_the_load_reads_again_and_one_of_them_takes_over() -> None:
    process = Process()
    first = process.begin()
    process.begin_load(first)
    second, third = process.begin(), process.begin()
    assert isinstance(second.send(MINE), Join)
    assert isinstance(third.send(MINE), Join)
    first.send(Loaded("too old for the others"))
    end(first, None)
    assert Get(K) == second.send(None)
    assert Get(K) == third.send(None)
    process.begin_load(second)
    assert isinstance(third.send(MINE), Join)
    second.send(Loaded("new"))
    end(second, None)
    assert Reading("new", ReadOutcome.SHARED) == end(third, None)


def test_failed_load_is_shared_with_those_who_may_share_it() -> None:
    process = Process()
    first, second = process.begin(), process.begin()
    process.begin_load(first)
    assert isinstance(second.send(MINE), Join)
    assert Gets(K) == first.throw(NoDatabaseError())
    with pytest.raises(NoDatabaseError):
        first.send(None)
    with pytest.raises(NoDatabaseError):
        second.send(None)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
def test_interrupted_load_releases_its_placeholder_and_hands_over(interruption: type[BaseException]) -> None:
    process = Process()
    rounds = together([process.read()])
    assert [Get(K)] == next(rounds)
    second = process.begin()
    assert [Add(K, MINE, 30)] == rounds.send([None])
    assert [Load(K)] == rounds.send([True])
    assert isinstance(second.send(MINE), Join)
    assert [Gets(K)] == rounds.throw(interruption())
    assert [Cas(K, MINE, -1, "token")] == rounds.send([Held(MINE, "token")])
    with pytest.raises(interruption):
        rounds.send([True])
    assert Get(K) == second.send(None)
    process.begin_load(second)


def test_abandoned_reader_hands_over() -> None:
    process = Process()
    first, second = process.begin(), process.begin()
    process.begin_load(first)
    assert isinstance(second.send(MINE), Join)
    first.close()
    assert Get(K) == second.send(None)
    process.begin_load(second)


def test_reader_that_has_waited_for_longest_loads_alone() -> None:
    process = Process(longest_wait=7)
    first, second = process.begin(), process.begin()
    process.begin_load(first)
    join = second.send(MINE)
    assert isinstance(join, Join)
    assert 7 == join.seconds
    assert Load(K) == second.send(None)
    assert Reading(1, ReadOutcome.UNFILLED) == end(second, Loaded(1))


# With threads and tasks


@pytest.fixture
def node() -> Iterator[LyingMemcached]:
    with LyingMemcached() as node:
        yield node


@pytest.fixture(params=["threads", "asyncio"])
def herd(request: pytest.FixtureRequest, node: LyingMemcached) -> Callable[[Callable[[], Any]], list[Any]]:
    """Return a function that reads the key with many readers at once, through one of the twins."""

    def threads(load: Callable[[], Any]) -> list[Any]:
        with closing(LookAsideCache([node.address], timeout=10, patience=10)) as cache:
            with ThreadPoolExecutor(READERS) as pool:
                reads = [pool.submit(cache.get_or_load, K, load, ttl=60) for _ in range(READERS)]
            return [read.exception() or read.result() for read in reads]

    async def tasks(load: Callable[[], Any]) -> list[Any]:
        async def loaded() -> Any:
            return await asyncio.to_thread(load)

        cache = AsyncLookAsideCache([node.address], timeout=10, patience=10)
        reads = (cache.get_or_load(K, loaded, ttl=60) for _ in range(READERS))
        try:
            return await asyncio.gather(*reads, return_exceptions=True)
        finally:
            cache.close()
            await asyncio.sleep(0)

    return threads if request.param == "threads" else lambda load: asyncio.run(tasks(load))


class Database:
    """A source whose loads take until all readers have read, and never overlap."""

    def __init__(self, node: LyingMemcached) -> None:
        self._node = node
        self._all_have_read = threading.Event()
        self._loading = threading.Lock()
        self.loads = 0
        node.before = self._count

    def _count(self, verb: str) -> None:
        if self._node.verbs.count("get") >= READERS - 1:
            self._all_have_read.set()

    def load(self) -> str:
        assert self._loading.acquire(blocking=False), "two loads at once"
        try:
            self.loads += 1
            self._all_have_read.wait(30)
            return f"load {self.loads}"
        finally:
            self._loading.release()

    def fail(self) -> None:
        self.load()
        raise NoDatabaseError

    def load_while_it_changes(self) -> str:
        loaded = self.load()
        self._node.items.clear()
        return loaded


Herd = Callable[[Callable[[], Any]], list[Any]]


def test_herd_on_a_missing_key_loads_once(node: LyingMemcached, herd: Herd) -> None:
    database = Database(node)
    assert ["load 1"] * READERS == herd(database.load)
    assert 1 == database.loads


def test_herd_whose_loads_fail_loads_one_at_a_time_and_not_for_each_reader(node: LyingMemcached, herd: Herd) -> None:
    database = Database(node)
    assert {NoDatabaseError} == {type(error) for error in herd(database.fail)}
    assert database.loads < READERS


def test_herd_on_a_key_evicted_while_it_is_loaded_loads_one_at_a_time(node: LyingMemcached, herd: Herd) -> None:
    database = Database(node)
    assert {str} == {type(value) for value in herd(database.load_while_it_changes)}
    assert database.loads < READERS


def test_reader_that_shares_a_load_is_notified_so_that_a_near_cache_does_not_keep_the_value(
    node: LyingMemcached,
) -> None:
    class Watched:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def __call__(self) -> str:
            self.calls.append("called")
            return database.load()

        def shared(self) -> None:
            self.calls.append("shared")

    database = Database(node)
    node.lies[b"get"] = b"SERVER_ERROR out of memory\r\n"  # so that no reader hits
    loads = [Watched() for _ in range(READERS)]
    with closing(LookAsideCache([node.address], timeout=10)) as cache, ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda load: cache.get_or_load(K, load, ttl=60), loads))
    assert {("called",), ("shared",)} >= {tuple(load.calls) for load in loads}
    assert database.loads == sum(load.calls == ["called"] for load in loads)


def test_load_that_reads_its_own_key_does_not_wait_for_itself(node: LyingMemcached) -> None:
    with closing(LookAsideCache([node.address], patience=0)) as cache:
        assert 2 == cache.get_or_load(K, lambda: cache.get_or_load(K, lambda: 1, ttl=60) + 1, ttl=60)


async def test_cancelled_owner_hands_over_to_one_other(node: LyingMemcached) -> None:
    cache = AsyncLookAsideCache([node.address], timeout=10, patience=10)
    loading = asyncio.Event()
    loads: list[int] = []

    async def load() -> int:
        loads.append(1)
        loading.set()
        if len(loads) == 1:
            await asyncio.Event().wait()
        return len(loads)

    owner = asyncio.create_task(cache.get_or_load(K, load, ttl=60))
    await loading.wait()
    others = [asyncio.create_task(cache.get_or_load(K, load, ttl=60)) for _ in range(10)]
    while node.verbs.count("get") < 11:
        await asyncio.sleep(0.001)
    owner.cancel()
    assert [2] * 10 == await asyncio.gather(*others)
    assert owner.cancelled()
    assert 2 == len(loads)
    cache.close()
