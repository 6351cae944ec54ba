"""Hits on their way to a comparison: a caller gets its answer, whatever the source does afterwards."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from invalidator.app.cache.audit import tasks, thread
from invalidator.app.cache.audit.comparison import Comparison
from invalidator.app.cache.items import Item, Json
from invalidator.testing import MemoryCluster
from tests.logs import capture_logs
from tests.test_reader_forks import in_child

Cache = TypeVar("Cache", bound=LookAsideCache | AsyncLookAsideCache)

K = "product:1"


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
def cache(cluster: MemoryCluster) -> Iterator[LookAsideCache]:
    """Yield a cache that compares every hit, and that holds an old value."""
    cache = audited(cluster)
    yield cache
    cache.close()


def audited(cluster: MemoryCluster, **options: Any) -> LookAsideCache:
    return prepared(cluster, LookAsideCache(["memory:1"], audit=1, **options))


def audited_on_a_loop(cluster: MemoryCluster, **options: Any) -> AsyncLookAsideCache:
    return prepared(cluster, AsyncLookAsideCache(["memory:1"], audit=1, **options))


def prepared(cluster: MemoryCluster, cache: Cache) -> Cache:
    cluster.serve(cache)
    assert cache._audit
    cache._audit.comparison = Comparison(Json(), settle=0.01)
    cluster.memcached.set(K, Item(b"1"), 0)
    return cache


def counts(cache: LookAsideCache | AsyncLookAsideCache) -> tuple[int, int, int]:
    return cache.audited[:3]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


async def truth() -> int:
    return 2


# Threads


def test_stale_value_is_served_and_then_found_in_a_thread_of_its_own(cache: LookAsideCache) -> None:
    loaded_by: list[str] = []

    def load() -> int:
        loaded_by.append(threading.current_thread().name)
        return 2

    assert 1 == cache.get_or_load(K, load, ttl=60)
    eventually(lambda: (1, 1, 0) == counts(cache))
    assert ["audited reads"] * 2 == loaded_by


def test_hits_among_many_keys_are_compared_by_loads_of_one_key(cache: LookAsideCache, cluster: MemoryCluster) -> None:
    loaded: list[list[str]] = []

    def load(keys: list[str]) -> dict[str, int]:
        loaded.append(keys)
        return dict.fromkeys(keys, 1)

    cluster.memcached.set("b", Item(b"1"), 0)
    assert {K: 1, "a": 1, "b": 1} == cache.get_many_or_load([K, "a", "b"], load, ttl=60)
    eventually(lambda: (2, 0, 0) == counts(cache))
    assert [["a"], ["b"], [K]] == sorted(loaded)


def test_load_runs_in_the_callers_context(cache: LookAsideCache) -> None:
    tenant: ContextVar[int] = ContextVar("tenant", default=1)
    tenant.set(2)
    cache.get_or_load(K, tenant.get, ttl=60)
    tenant.set(1)
    eventually(lambda: (1, 1, 0) == counts(cache))


@pytest.mark.parametrize("error", [OSError("no database"), SystemExit(1)], ids=repr)
def test_load_that_fails_is_undecided_and_the_next_hit_is_compared(cache: LookAsideCache, error: BaseException) -> None:
    def load() -> int:
        raise error

    with capture_logs() as lines:
        assert 1 == cache.get_or_load(K, load, ttl=60)
        eventually(lambda: (0, 0, 1) == counts(cache))
    assert ["cannot compare a cached value with the source"] == [line["event"] for line in lines]
    assert 1 == cache.get_or_load(K, lambda: 1, ttl=60)
    eventually(lambda: (1, 0, 1) == counts(cache))


def test_source_that_hangs_holds_up_no_reader_and_what_it_cannot_take_is_undecided(
    cache: LookAsideCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "LIMIT", 3)
    hanging, over = threading.Event(), threading.Event()

    def load() -> int:
        hanging.set()
        over.wait()
        return 1

    cache.get_or_load(K, load, ttl=60)
    hanging.wait()
    assert [1] * 5 == [cache.get_or_load(K, load, ttl=60) for _ in range(5)]
    assert (0, 0, 2) == counts(cache)
    over.set()
    eventually(lambda: (4, 0, 2) == counts(cache))


def test_hit_that_has_settled_goes_before_those_that_wait(cache: LookAsideCache, cluster: MemoryCluster) -> None:
    loaded: list[str] = []
    has_begun, may_go_on = threading.Event(), threading.Event()

    def load_other() -> int:
        loaded.append("other")
        has_begun.set()
        may_go_on.wait()
        return 1

    cluster.memcached.set("other", Item(b"1"), 0)
    cache.get_or_load(K, lambda: loaded.append(K), ttl=60)
    for _ in range(5):
        cache.get_or_load("other", load_other, ttl=60)
    has_begun.wait()
    assert isinstance(cache._audit, thread.AuditThread)
    comparing = cache._audit._running
    assert comparing
    eventually(lambda: comparing._settling[0][0] < time.monotonic())
    may_go_on.set()
    eventually(lambda: (6, 1, 0) == counts(cache))
    assert [K, "other", K, *["other"] * 4] == loaded


def test_source_of_the_audit_is_read_instead_of_load(cluster: MemoryCluster) -> None:
    cache = audited(cluster, audit_source=lambda key: (lambda: 2) if key == K else None)
    cluster.memcached.set("secret:1", Item(b"1"), 0)
    for key in (K, "secret:1"):
        assert 1 == cache.get_or_load(key, lambda: 1, ttl=60)
    eventually(lambda: (1, 1, 0) == counts(cache))
    cache.close()


def test_source_of_the_audit_that_raises_is_undecided(cluster: MemoryCluster) -> None:
    cache = audited(cluster, audit_source=lambda key: 1 // 0)
    with capture_logs() as lines:
        assert 1 == cache.get_or_load(K, lambda: 1, ttl=60)
    assert (0, 0, 1) == counts(cache)
    assert next(line["reason"] for line in lines).startswith("ZeroDivisionError")


def test_thread_that_cannot_be_started_costs_no_answer(cache: LookAsideCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert 1 == cache.get_or_load(K, lambda: 1, ttl=60)
    assert (0, 0, 1) == counts(cache)


def test_close_gives_up_what_settles_and_a_later_hit_starts_anew(cache: LookAsideCache) -> None:
    assert cache._audit
    cache._audit.comparison = Comparison(Json(), settle=3600)
    loaded = threading.Event()

    def load() -> int:
        loaded.set()
        return 2

    cache.get_or_load(K, load, ttl=60)
    loaded.wait()
    cache.close()
    eventually(lambda: (0, 0, 1) == counts(cache))
    cache.get_or_load(K, lambda: 1, ttl=60)
    eventually(lambda: (1, 0, 1) == counts(cache))


def test_cache_that_is_dropped_without_close_ends_its_thread_and_keeps_nothing_of_its_callers(
    cluster: MemoryCluster,
) -> None:
    before = set(threading.enumerate())
    dropped = _used_and_dropped(cluster)
    (started,) = set(threading.enumerate()) - before

    def is_gone() -> bool:
        gc.collect()
        return dropped() is None

    eventually(is_gone)
    started.join(20)
    assert not started.is_alive()


def _used_and_dropped(cluster: MemoryCluster) -> "weakref.ref[LookAsideCache]":
    """Have a hit compared by a load that keeps the cache alive, as a method of its owner does."""
    cache = audited(cluster)

    def load() -> int:
        return 2 if cache else 0

    assert 1 == cache.get_or_load(K, load, ttl=60)
    eventually(lambda: (1, 1, 0) == counts(cache))
    return weakref.ref(cache)


def test_child_of_a_fork_compares_in_a_thread_of_its_own(cache: LookAsideCache) -> None:
    cache.get_or_load(K, lambda: 1, ttl=60)
    eventually(lambda: (1, 0, 0) == counts(cache))

    def read() -> bool:
        assert (0, 0, 0) == counts(cache)
        cache.get_or_load(K, lambda: 2, ttl=60)
        eventually(lambda: (1, 1, 0) == counts(cache))
        return True

    assert 0 == in_child(read)


def test_without_an_audit_nothing_is_loaded_and_nothing_known(cluster: MemoryCluster) -> None:
    cache = cluster.serve(LookAsideCache(["memory:1"]))
    cluster.memcached.set(K, Item(b"1"), 0)
    assert 1 == cache.get_or_load(K, lambda: 1 // 0, ttl=60)
    assert (0, 0, 0) == counts(cache)


# Tasks


async def compared(cache: AsyncLookAsideCache) -> tuple[int, int, int]:
    """Wait until nothing is under way."""
    assert isinstance(cache._audit, tasks.AuditTasks)
    async with asyncio.timeout(20):
        while cache._audit._tasks:
            await asyncio.sleep(0.002)
    return counts(cache)


async def test_stale_value_is_served_and_then_found_by_a_task(cluster: MemoryCluster) -> None:
    cache = audited_on_a_loop(cluster)
    assert 1 == await cache.get_or_load(K, truth, ttl=60)
    assert (0, 0, 0) == counts(cache)
    assert (1, 1, 0) == await compared(cache)


async def test_hits_among_many_keys_are_compared_by_tasks(cluster: MemoryCluster) -> None:
    cache = audited_on_a_loop(cluster)

    async def load(keys: list[str]) -> dict[str, int]:
        return dict.fromkeys(keys, 1)

    assert {K: 1, "a": 1} == await cache.get_many_or_load([K, "a"], load, ttl=60)
    assert (1, 0, 0) == await compared(cache)
    cluster.memcached.set(K, Item(b"0"), 0)
    assert {K: 0} == await cache.get_many_or_load([K], load, ttl=60)
    assert (2, 1, 0) == await compared(cache)


async def test_hit_of_the_sample_is_followed_by_others_that_are_not_in_it(cluster: MemoryCluster) -> None:
    blocking = prepared(cluster, LookAsideCache(["memory:1"], audit=1e-9))
    cache = prepared(cluster, AsyncLookAsideCache(["memory:1"], audit=1e-9))
    for audit in (blocking._audit, cache._audit):
        assert audit
        audit.ticks = iter(())
    for _ in range(2):
        blocking.get_or_load(K, lambda: 1, ttl=60)
        await cache.get_or_load(K, truth, ttl=60)
    assert (1, 1, 0) == await compared(cache)
    await asyncio.to_thread(eventually, lambda: (1, 0, 0) == counts(blocking))
    blocking.close()


async def test_awaited_load_that_fails_is_undecided(cluster: MemoryCluster) -> None:
    cache = audited_on_a_loop(cluster)

    async def load() -> int:
        raise OSError("no database")

    with capture_logs() as lines:
        assert 1 == await cache.get_or_load(K, load, ttl=60)
        assert (0, 0, 1) == await compared(cache)
    assert ["OSError: no database"] == [line["reason"] for line in lines]


async def test_source_of_the_audit_is_awaited_instead_of_load(cluster: MemoryCluster) -> None:
    cache = audited_on_a_loop(cluster, audit_source=lambda _: truth)

    async def load() -> int:
        return 1

    await cache.get_or_load(K, load, ttl=60)
    assert (1, 1, 0) == await compared(cache)


async def test_source_that_hangs_is_undecided_for_the_tasks_that_are_too_many(
    cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LIMIT", 3)
    cache, over = audited_on_a_loop(cluster), asyncio.Event()

    async def load() -> int:
        await over.wait()
        return 1

    assert [1] * 5 == [await cache.get_or_load(K, load, ttl=60) for _ in range(5)]
    assert (0, 0, 2) == counts(cache)
    over.set()
    assert (3, 0, 2) == await compared(cache)


async def test_close_cancels_the_tasks_and_counts_them(cluster: MemoryCluster) -> None:
    cache = audited_on_a_loop(cluster)
    await cache.get_or_load(K, asyncio.Event().wait, ttl=60)
    await asyncio.sleep(0)
    cache.close()
    assert (0, 0, 1) == await compared(cache)


def test_tasks_of_a_loop_that_was_closed_make_room(cluster: MemoryCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LIMIT", 1)
    cache = audited_on_a_loop(cluster)

    async def hang() -> None:
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(cache.get_or_load(K, hang, ttl=60))
    assert isinstance(cache._audit, tasks.AuditTasks)
    (left,) = cache._audit._tasks
    left._log_destroy_pending = False  # type: ignore[attr-defined]  # left pending on purpose
    loop.close()

    async def read(load: Callable[[], Awaitable[Any]]) -> tuple[int, int, int]:
        await cache.get_or_load(K, load, ttl=60)
        return await compared(cache)

    assert (1, 1, 0) == asyncio.run(read(truth))
