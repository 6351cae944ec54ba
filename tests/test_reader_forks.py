"""A process that forks while another thread holds a lock of ours: the child reads all the same."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from invalidator.app import AsyncLookAsideCache, LookAsideCache, NearCache, Reads
from invalidator.app.cache.commands import ReadOutcome
from invalidator.app.cache.counting import COUNT, Tally
from tests.lying_memcached import LyingMemcached

CHILD_SECONDS = 20


@contextmanager
def held_by_another_thread(*locks: Any) -> Iterator[None]:
    """Hold the locks in another thread until the block ends."""
    holding, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            holding.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait()
    yield
    over.set()
    thread.join()


def in_child(read: Callable[[], Any]) -> int:
    """Return the exit code of a forked child that reads; one that hangs is killed by its alarm."""
    pid = os.fork()
    if pid == 0:
        import signal

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(CHILD_SECONDS)
        try:
            os._exit(0 if read() else 1)
        except BaseException:  # noqa: BLE001  the child ends here in any case
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_child_reads_though_a_lock_was_held_at_the_fork() -> None:
    with LyingMemcached() as node:
        reads = Reads()
        cache = LookAsideCache([node.address], on_read=reads.count)
        cache.get_or_load("k", lambda: 1, ttl=60, stale_for=5)
        reader = cache._reader
        locks = [reads._lock, reader._unproven._lock, reader._last_seen._lock, reader._logged._lock]
        with held_by_another_thread(*locks):
            code = in_child(lambda: cache.get_or_load("k", lambda: 2, ttl=60, stale_for=5) == 1 and reads.of("k") == 2)
        assert 0 == code
        cache.close()


def test_child_loads_though_another_thread_was_loading_the_key_at_the_fork() -> None:
    loading, over = threading.Event(), threading.Event()

    def load() -> int:
        loading.set()
        over.wait()
        return 1

    with LyingMemcached() as node, closing(LookAsideCache([node.address], patience=0)) as cache:
        thread = threading.Thread(target=lambda: cache.get_or_load("k", load, ttl=60))
        thread.start()
        loading.wait()
        code = in_child(lambda: cache.get_or_load("k", lambda: 2, ttl=60) == 2)
        over.set()
        thread.join()
    assert 0 == code


def test_child_reads_on_a_connection_of_its_own() -> None:
    with LyingMemcached() as node, closing(LookAsideCache([node.address])) as cache:
        cache.get_or_load("k", lambda: 1, ttl=60)
        assert 0 == in_child(lambda: cache.get_or_load("k", lambda: 2, ttl=60) == 1)
        assert 2 == len(node.accepted)
        assert 1 == cache.get_or_load("k", lambda: 2, ttl=60)
        assert 2 == len(node.accepted)


def test_child_leaves_the_connection_of_its_parents_loop_alone() -> None:
    async def read() -> int:
        async def load() -> int:
            return 1

        return await cache.get_or_load("k", load, ttl=60)

    async def end() -> None:
        cache.close()

    with LyingMemcached() as node, asyncio.Runner() as runner:
        cache = AsyncLookAsideCache([node.address])
        (owner,) = cache.nodes._placement.nodes.values()
        assert 1 == runner.run(read())
        (connection,) = owner._connections.values()
        assert 0 == in_child(lambda: (connection._socket.fileno(), owner._connections) == (-1, {}))
        assert 1 == runner.run(read())
        assert 1 == len(node.accepted)
        runner.run(end())


def test_child_uses_a_near_cache_though_a_lock_was_held_at_the_fork() -> None:
    class Shared:
        def get_or_load(self, key: str, load: Any, *, ttl: float, negative_ttl: float | None) -> Any:
            return load()

    cache = NearCache(Shared(), "amqp://guest:guest@127.0.0.1:1/", cluster="eu")
    with cache, held_by_another_thread(cache._copies._lock, cache._starting):
        assert 0 == in_child(lambda: cache.get_or_load("k", lambda: 1, ttl=60) == 1)


def test_child_closes_an_asyncio_cache_though_its_lock_was_held_at_the_fork() -> None:
    cache = AsyncLookAsideCache(["127.0.0.1:1"])
    (node,) = cache.nodes._placement.nodes.values()

    def close() -> bool:
        cache.close()
        return True

    with held_by_another_thread(node._lock):
        assert 0 == in_child(close)


def test_child_counts_though_the_metric_was_being_read_at_the_fork() -> None:
    tally = Tally("reads", "Reads", ["hit", "stale"])
    with held_by_another_thread(tally._lock):
        assert 0 == in_child(lambda: bool(list(tally.collect())))


def test_reads_are_counted_however_often_the_metric_is_read() -> None:
    tally = Tally("reads", "Reads", ["hit", "stale"])
    for collections in range(3):
        tally.count["hit"]()
        (family,) = tally.collect()
        counted = {sample.labels["outcome"]: sample.value for sample in family.samples}
        assert (collections + 1, 0) == (counted["hit"], counted["stale"])
    assert set(COUNT) == set(ReadOutcome)


@pytest.mark.parametrize("threads", [8])
def test_no_read_of_many_threads_is_lost_in_the_count(threads: int) -> None:
    tally = Tally("reads", "Reads", ["hit", "stale"])
    count = tally.count["hit"]
    running = [threading.Thread(target=lambda: [count() for _ in range(20_000)]) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    (family,) = tally.collect()
    assert threads * 20_000 == max(sample.value for sample in family.samples)
