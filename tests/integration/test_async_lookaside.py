"""AsyncLookAsideCache on real memcached: the same steps as with threads, and asyncio's own cases."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from invalidator.app import AsyncLookAsideCache, Loaded
from invalidator.app.cache.commands import Add, Cas, Failure, Gets, Held
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.nodes.async_connection import AsyncConnection
from invalidator.app.cache.nodes.async_nodes import AsyncNode
from invalidator.app.cache.nodes.node_state import COOLDOWN_SECONDS
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.servers import Memcached

from .conftest import MemcachedFactory, ProxyFactory
from .test_lookaside import commands
from .test_memcached import hang, split

K = "product:1"
Caches = Callable[..., AsyncLookAsideCache]


@pytest.fixture
def node(memcached: MemcachedFactory) -> Memcached:
    return memcached()


@pytest.fixture
async def caches() -> Any:
    made: list[AsyncLookAsideCache] = []

    def make(*nodes: str, **options: Any) -> AsyncLookAsideCache:
        made.append(AsyncLookAsideCache(nodes, **options))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


def loads(value: Any) -> Callable[..., Awaitable[Any]]:
    async def load(*_: Any) -> Any:
        return value

    return load


async def never(*_: Any) -> Any:
    raise AssertionError("loaded, and should not have been")


async def test_miss_costs_four_commands_and_a_hit_one(node: Memcached, caches: Caches) -> None:
    cache = caches(node.address)
    assert {"price": 1} == await cache.get_or_load(K, loads({"price": 1}), ttl=60)
    assert 4 == commands(node)
    assert {"price": 1} == await cache.get_or_load(K, never, ttl=60)
    assert 5 == commands(node)


async def test_many_keys_of_many_nodes_are_loaded_at_once(memcached: MemcachedFactory, caches: Caches) -> None:
    cache = caches(memcached().address, memcached().address, prefix="shop:")
    keys = [f"product:{number}" for number in range(20)]
    values = {key: key.upper() for key in keys}
    assert values == await cache.get_many_or_load(keys, loads(Loaded(values, as_of=None)), ttl=60)
    assert values == await cache.get_many_or_load(keys, never, ttl=60)


async def test_tasks_that_miss_together_load_once(node: Memcached, caches: Caches) -> None:
    processes = [caches(node.address, patience=30) for _ in range(2)]
    calls: list[int] = []

    async def load() -> int:
        calls.append(1)
        while int((await asyncio.to_thread(node.stats))["cmd_get"]) < 16:
            await asyncio.sleep(0.001)
        return 1

    assert [1] * 8 == await asyncio.gather(*(cache.get_or_load(K, load, ttl=60) for cache in processes * 4))
    assert 1 == len(calls)


async def test_value_evicted_while_it_is_loaded_is_served_and_not_stored(node: Memcached, caches: Caches) -> None:
    async def load_while_it_changes() -> int:
        node.delete(K)
        return 1

    assert 1 == await caches(node.address).get_or_load(K, load_while_it_changes, ttl=60)
    assert node.get(K) is None


async def test_failed_load_is_raised_and_its_placeholder_released(node: Memcached, caches: Caches) -> None:
    with pytest.raises(AssertionError, match="should not have been"):
        await caches(node.address).get_or_load(K, never, ttl=60)
    assert node.get(K) is None


async def test_value_too_large_for_memcached_is_served_and_its_placeholder_released(
    node: Memcached, caches: Caches
) -> None:
    large = "x" * 2_000_000
    with capture_logs() as logs:
        assert large == await caches(node.address).get_or_load(K, loads(large), ttl=60)
    assert ["memcached refused the value; serving it without caching"] == [log["event"] for log in logs]
    assert node.get(K) is None


async def test_lagging_replica_is_served_and_not_stored_until_it_has_caught_up(node: Memcached, caches: Caches) -> None:
    cache = caches(node.address, position=loads(7))
    for as_of in (6, 7):
        assert "old" == await cache.get_or_load(K, loads(Loaded("old", as_of=as_of)), ttl=60)
    assert "new" == await cache.get_or_load(K, loads(Loaded("new", as_of=8)), ttl=60)
    assert "new" == await cache.get_or_load(K, never, ttl=60)


async def test_unknown_position_of_the_primary_costs_the_fill_and_not_the_read(node: Memcached, caches: Caches) -> None:
    with capture_logs() as logs:
        assert 1 == await caches(node.address, position=never).get_or_load(K, loads(Loaded(1, as_of=8)), ttl=60)
    assert ["error"] == [log["log_level"] for log in logs]


async def test_decorated_coroutine_function_is_read_through_the_cache(node: Memcached, caches: Caches) -> None:
    calls: list[str] = []

    @caches(node.address).cached("price:{id}", ttl=60)
    async def price(id: str) -> float:
        calls.append(id)
        return 109.99

    assert [109.99, 109.99] == [await price("1"), await price(id="1")]
    assert ["1"] == calls


async def test_memcached_down_is_logged_once_and_everything_is_loaded(node: Memcached, caches: Caches) -> None:
    cache = caches(node.address)
    await cache.get_or_load(K, loads(1), ttl=60)
    node.kill()
    with capture_logs() as logs:
        assert [2, 2, 2] == [await cache.get_or_load(K, loads(2), ttl=60) for _ in range(3)]
    assert ["memcached does not answer: reads go to the source"] == [log["event"] for log in logs]
    node.start()
    deadline = asyncio.get_running_loop().time() + 20 * COOLDOWN_SECONDS
    while node.get(K) is None and asyncio.get_running_loop().time() < deadline:
        await cache.get_or_load(K, loads(9), ttl=60)
    assert node.get(K) == b"9"


async def test_node_that_hangs_costs_one_timeout_and_is_then_left_alone(node: Memcached, caches: Caches) -> None:
    cache = caches(node.address, timeout=0.2)
    await cache.get_or_load(K, loads(1), ttl=60)
    hang(node)
    assert [2, 2, 2] == [await cache.get_or_load(K, loads(2), ttl=60) for _ in range(3)]
    node.resume()


@pytest.mark.parametrize("spoilt", [b"", b"STO", b"STORED\r\n", b"VALUE other 0 1\r\n7\r\nEND\r\n", b"\xff\r\n"])
async def test_spoilt_answer_ends_its_connection_and_the_value_is_loaded(
    node: Memcached, caches: Caches, proxy: ProxyFactory, spoilt: bytes
) -> None:
    between = await proxy(node.address)
    cache = caches(between.address, timeout=0.3)
    await cache.get_or_load(K, loads(1), ttl=60)
    between.replies.rewrite = lambda data: spoilt
    assert 2 == await cache.get_or_load(K, loads(2), ttl=60)
    assert [] == connections(cache)


async def test_answer_to_a_cancelled_read_is_dropped_and_the_others_get_theirs(
    node: Memcached, caches: Caches, proxy: ProxyFactory
) -> None:
    between = await proxy(node.address)
    cache = caches(between.address, timeout=30)
    for number in range(3):
        await cache.get_or_load(f"product:{number}", loads(number), ttl=60)
    between.replies.hold()
    before = commands(node)
    reads = [asyncio.ensure_future(cache.get_or_load(f"product:{number}", never, ttl=60)) for number in range(3)]
    while commands(node) < before + 3:
        await asyncio.sleep(0.001)
    reads[1].cancel()
    await asyncio.wait([reads[1]])
    between.replies.release()
    assert (0, 2) == (await reads[0], await reads[2])
    assert reads[1].cancelled()
    assert 1 == await cache.get_or_load("product:1", never, ttl=60)
    assert 1 == len(connections(cache))


async def test_connection_lost_between_gets_and_cas_is_never_made_again(node: Memcached) -> None:
    mine, other = Item(b"mine", LEASE), Item(b"other", LEASE)
    reader, somebody = (
        AsyncNode("n1", Address(*split(node.address)), prefix="", timeout=5, access=Access()) for _ in range(2)
    )
    assert [True] == await reader.answer([Add(K, mine, 30)])
    (held,) = await reader.answer([Gets(K)])
    assert isinstance(held, Held)
    node.restart()
    assert [True] == await somebody.answer([Add(K, other, 30)])
    (theirs,) = await somebody.answer([Gets(K)])
    assert isinstance(theirs, Held)
    assert held.token.number == theirs.token.number
    cas = Cas(K, Item(b"old"), 60, held.token)
    assert [Failure.DOWN] == await reader.answer([cas])
    assert node.get(K) == b"other"
    theirs.token.connection.close()


def test_connections_do_not_outlive_their_event_loop(node: Memcached) -> None:
    cache = AsyncLookAsideCache([node.address])

    async def read(load: Callable[[], Awaitable[int]]) -> int:
        try:
            return await cache.get_or_load(K, load, ttl=60)
        finally:
            cache.close()

    assert [1, 1] == [asyncio.run(read(loads(1))), asyncio.run(read(never))]


def test_one_cache_serves_many_event_loops_at_once_and_one_after_the_other(node: Memcached) -> None:
    cache = AsyncLookAsideCache([node.address], timeout=30)
    started = threading.Barrier(4)

    async def read_often() -> list[int]:
        await asyncio.to_thread(started.wait)
        found: list[int] = []
        for _ in range(20):
            reads = (cache.get_or_load(f"product:{number}", loads(1), ttl=60) for number in range(20))
            found += await asyncio.gather(*reads)
        return found

    with warnings.catch_warnings(), ThreadPoolExecutor(4) as threads:
        warnings.simplefilter("ignore", ResourceWarning)  # transports that outlive their loop; the sockets are closed
        for _ in range(2):
            runs = [threads.submit(asyncio.run, read_often()) for _ in range(4)]
            assert [[1] * 400] * 4 == [run.result() for run in runs]
        sockets_of_dead_loops = [connection._socket for connection in connections(cache)]
        asyncio.run(read_once_and_close(cache))
        assert {-1} == {each.fileno() for each in sockets_of_dead_loops}
        gc.collect()
    assert [] == connections(cache)


async def read_once_and_close(cache: AsyncLookAsideCache) -> None:
    assert 1 == await cache.get_or_load("product:1", never, ttl=60)
    cache.close()
    await asyncio.sleep(0)


def connections(cache: AsyncLookAsideCache) -> list[AsyncConnection]:
    (node,) = cache.nodes._placement.nodes.values()
    return [connection for connection in node._connections.values() if connection.is_open]
