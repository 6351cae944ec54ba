"""LookAsideCache on real memcached: its cost, the values it stores, and nodes that fail."""

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pymemcache.client.hash import HashClient

from invalidator.app import AsyncLookAsideCache, Loaded, LookAsideCache, Reads
from invalidator.app.cache.commands import Add, Cas, Failure, Gets, Held
from invalidator.app.cache.items import LEASE, Item
from invalidator.app.cache.nodes.blocking_nodes import BlockingNode
from invalidator.app.cache.nodes.node_state import COOLDOWN_SECONDS
from invalidator.errors import ConfigurationError
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.logs import capture_logs
from tests.servers import Memcached

from .conftest import MemcachedFactory, ProxyFactory
from .test_memcached import hang

K = "product:1"


@pytest.fixture
def node(memcached: MemcachedFactory) -> Memcached:
    return memcached()


@pytest.fixture
def caches() -> Iterator[Callable[..., LookAsideCache]]:
    made: list[LookAsideCache] = []

    def make(*nodes: Memcached, **options: Any) -> LookAsideCache:
        made.append(LookAsideCache([node.address for node in nodes], **options))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


Caches = Callable[..., LookAsideCache]


def commands(node: Memcached) -> int:
    """Return the number of reads and writes so far, as memcached itself counts them."""
    stats = node.stats()
    return sum(int(stats[name]) for name in ("cmd_get", "cmd_set", "delete_hits", "delete_misses", "cmd_touch"))


def outcomes(outcome: str) -> float:
    return REGISTRY.get_sample_value("invalidator_lookaside_reads_total", {"outcome": outcome}) or 0


def never() -> Any:
    raise AssertionError("loaded, and should not have been")


# Cost


def test_miss_costs_four_commands_and_a_hit_one(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    assert {"price": 1} == cache.get_or_load(K, lambda: {"price": 1}, ttl=60)
    assert 4 == commands(node)
    for _ in range(10):
        assert {"price": 1} == cache.get_or_load(K, never, ttl=60)
    assert 14 == commands(node)


def test_many_keys_cost_one_get_a_node_and_one_load(memcached: MemcachedFactory, caches: Caches) -> None:
    nodes = [memcached(), memcached()]
    cache = caches(*nodes)
    keys = [f"product:{number}" for number in range(20)]
    loads: list[list[str]] = []

    def load(missing: list[str]) -> dict[str, str]:
        loads.append(missing)
        return {key: key.upper() for key in missing}

    cache.get_many_or_load(keys[:10], load, ttl=60)
    assert {key: key.upper() for key in keys} == cache.get_many_or_load([*keys, *keys], load, ttl=60)
    assert [keys[:10], keys[10:]] == loads
    before = [int(node.stats()["get_hits"]) for node in nodes]
    cache.get_many_or_load(keys, load, ttl=60)
    assert 20 == sum(int(node.stats()["get_hits"]) for node in nodes) - sum(before)


def test_values_are_on_the_node_where_hashclient_reads_them(memcached: MemcachedFactory, caches: Caches) -> None:
    nodes = [memcached() for _ in range(3)]
    cache = caches(*nodes, prefix="shop:")
    keys = [f"product:{number}" for number in range(30)]
    cache.get_many_or_load(keys, lambda keys: dict.fromkeys(keys, "there"), ttl=60)
    client = HashClient([node.address for node in nodes], key_prefix=b"shop:")
    assert dict.fromkeys(keys, b'"there"') == client.get_many(keys)
    client.close()


# Stored values


def test_value_has_its_ttl_less_a_tenth_at_most(node: Memcached, caches: Caches) -> None:
    caches(node).get_or_load(K, lambda: 1, ttl=1000)
    assert 890 <= remaining(node) <= 1000


def test_ttl_of_years_is_one_of_thirty_days(node: Memcached, caches: Caches) -> None:
    caches(node).get_or_load(K, lambda: 1, ttl=1e9)
    assert 0.89 * 2_592_000 <= remaining(node) <= 2_592_000


def remaining(node: Memcached) -> int:
    return int(node.command(f"mg {K} t\r\n".encode()).split()[1][1:])


def test_ttl_that_caches_nothing_is_refused(node: Memcached, caches: Caches) -> None:
    with pytest.raises(ConfigurationError, match="a ttl of 0 s caches nothing"):
        caches(node).get_or_load(K, never, ttl=0)


def test_none_is_cached_and_so_is_a_key_that_a_load_of_many_leaves_out(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    assert cache.get_or_load(K, lambda: None, ttl=60) is None
    assert {K: None, "product:2": None} == cache.get_many_or_load([K, "product:2"], lambda keys: {}, ttl=60)
    assert cache.get_or_load("product:2", never, ttl=60) is None


def test_value_too_large_for_memcached_is_served_and_its_placeholder_released(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    large = "x" * 2_000_000
    with capture_logs() as logs:
        assert large == cache.get_or_load(K, lambda: large, ttl=60)
    assert ["memcached refused the value; serving it without caching"] == [log["event"] for log in logs]
    assert node.get(K) is None
    assert 1 == cache.get_or_load(K, lambda: 1, ttl=60)
    assert node.get(K) == b"1"


def test_failed_load_is_raised_and_its_placeholder_released(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    with pytest.raises(AssertionError, match="should not have been"):
        cache.get_or_load(K, never, ttl=60)
    assert node.get(K) is None
    with pytest.raises(AssertionError, match="should not have been"):
        cache.get_many_or_load([K, "product:2"], lambda keys: never(), ttl=60)
    assert node.get(K) is node.get("product:2") is None


def test_invalid_key_is_loaded(node: Memcached, caches: Caches) -> None:
    cache = caches(node, prefix="shop:")
    for key in ("with space", "\u0085", "", "x" * 246, "1\r\nflush_all"):
        with capture_logs() as logs:
            assert 1 == cache.get_or_load(key, lambda: 1, ttl=60)
        assert ["not a valid memcached key; bypassing the cache"] == [log["event"] for log in logs]
    assert 0 == commands(node)
    cache.get_or_load("x" * 245, lambda: 1, ttl=60)
    assert 4 == commands(node)


def test_reads_are_counted_by_key(node: Memcached, caches: Caches) -> None:
    reads = Reads()
    cache = caches(node, on_read=reads.count)
    for _ in range(3):
        cache.get_or_load(K, lambda: 1, ttl=60)
    cache.get_many_or_load([K, "product:2"], lambda keys: {}, ttl=60)
    assert [4, 1, 0] == [reads.of(key) for key in (K, "product:2", "product:3")]


def test_decorated_function_is_read_through_the_cache_by_its_arguments(node: Memcached, caches: Caches) -> None:
    calls: list[tuple[str, str]] = []

    @caches(node).cached("price:{currency}:{id}", ttl=60)
    def price(id: str, currency: str = "EUR") -> dict[str, str]:
        """Return the price."""
        calls.append((id, currency))
        return {"id": id, "in": currency}

    for _ in range(2):
        assert {"id": "1", "in": "EUR"} == price("1")
        assert {"id": "1", "in": "USD"} == price(currency="USD", id="1")
    assert [("1", "EUR"), ("1", "USD")] == calls
    assert node.get("price:EUR:1") is not None
    assert ("price", "Return the price.") == (price.__name__, price.__doc__)


# Other readers filling


def test_value_evicted_while_it_is_loaded_is_served_and_not_stored(node: Memcached, caches: Caches) -> None:
    def load_while_it_changes() -> int:
        node.delete(K)  # as the worker does after a commit
        return 1

    before = outcomes("evicted")
    assert 1 == caches(node).get_or_load(K, load_while_it_changes, ttl=60)
    assert node.get(K) is None
    assert 1 == outcomes("evicted") - before


def test_one_of_many_processes_loads_and_the_others_wait_for_it(node: Memcached, caches: Caches) -> None:
    processes = [caches(node, patience=30) for _ in range(2)]
    loads: list[int] = []

    def load() -> int:
        loads.append(1)
        while int(node.stats()["cmd_get"]) < 16:  # until all have read, and the other process again and again
            time.sleep(0.001)
        return 1

    with ThreadPoolExecutor(8) as threads:
        reads = [threads.submit(cache.get_or_load, K, load, ttl=60) for cache in processes * 4]
    assert [1] * 8 == [read.result() for read in reads]
    assert 1 == len(loads)


def test_placeholder_of_a_dead_reader_is_filled_over(node: Memcached, caches: Caches) -> None:
    node.command(b"add %b %d 30 5\r\n\xffonce\r\n" % (K.encode(), LEASE))
    assert 1 == caches(node).get_or_load(K, lambda: 1, ttl=60)
    assert node.get(K) == b"1"


def test_copy_this_process_still_has_is_taken_while_somebody_else_loads(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    cache.get_or_load(K, lambda: 1, ttl=60, stale_for=60)
    node.delete(K)
    assert 2 == cache.get_or_load(
        K, lambda: cache.get_or_load(K, never, ttl=60, stale_for=60) + 1, ttl=60, stale_for=60
    )
    assert 2 == cache.get_or_load(K, never, ttl=60)


def test_plain_get_sees_a_placeholder_as_hexadecimal_digits(node: Memcached, caches: Caches) -> None:
    seen: list[bytes | None] = []
    caches(node).get_or_load(K, lambda: seen.append(node.get(K)), ttl=60)
    (placeholder,) = seen
    assert placeholder
    assert 32 == len(placeholder)
    int(placeholder, 16)


# Replicas


def test_lagging_replica_is_served_and_not_stored_until_it_has_caught_up(node: Memcached, caches: Caches) -> None:
    cache = caches(node, position=lambda: 7)
    for as_of in (6, 7):
        assert "old" == cache.get_or_load(K, lambda as_of=as_of: Loaded("old", as_of=as_of), ttl=60)  # type: ignore[misc]
    assert "new" == cache.get_or_load(K, lambda: Loaded("new", as_of=8), ttl=60)
    assert "new" == cache.get_or_load(K, never, ttl=60)


def test_unknown_position_of_the_primary_costs_the_fill_and_not_the_read(node: Memcached, caches: Caches) -> None:
    cache = caches(node, position=never)
    with capture_logs() as logs:
        assert 1 == cache.get_or_load(K, lambda: Loaded(1, as_of=8), ttl=60)
    assert ["error"] == [log["log_level"] for log in logs]
    assert node.get(K) != b"1"


# Failing nodes


def test_memcached_down_is_logged_once_and_everything_is_loaded(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    cache.get_or_load(K, lambda: 1, ttl=60)
    node.kill()
    before = outcomes("unfilled")
    with capture_logs() as logs:
        for number in range(5):
            assert number == cache.get_or_load(K, lambda number=number: number, ttl=60)  # type: ignore[misc]
    assert ["memcached does not answer: reads go to the source"] == [log["event"] for log in logs]
    assert 5 == outcomes("unfilled") - before
    node.start()
    deadline = time.monotonic() + 20 * COOLDOWN_SECONDS
    while node.get(K) is None and time.monotonic() < deadline:
        cache.get_or_load(K, lambda: 9, ttl=60)
    assert node.get(K) == b"9"


def test_one_node_down_takes_only_its_own_keys(memcached: MemcachedFactory, caches: Caches) -> None:
    well, dead = memcached(), memcached()
    cache = caches(well, dead)
    keys = [f"product:{number}" for number in range(20)]
    cache.get_many_or_load(keys, lambda keys: dict.fromkeys(keys, "cached"), ttl=60)
    held = {key for key in keys if well.get(key)}
    dead.kill()
    values = cache.get_many_or_load(keys, lambda keys: dict.fromkeys(keys, "loaded"), ttl=60)
    assert {key: "cached" if key in held else "loaded" for key in keys} == values
    assert 0 < len(held) < 20


def test_node_that_hangs_costs_one_timeout_and_is_then_left_alone(node: Memcached, caches: Caches) -> None:
    cache = caches(node, timeout=0.2)
    cache.get_or_load(K, lambda: 1, ttl=60)
    hang(node)
    begun = time.monotonic()
    assert [2, 2, 2] == [cache.get_or_load(K, lambda: 2, ttl=60) for _ in range(3)]
    assert 0.2 <= time.monotonic() - begun
    node.resume()


def test_restart_between_reads_costs_nothing(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    cache.get_or_load(K, lambda: 1, ttl=60)
    node.restart()
    assert 2 == cache.get_or_load(K, lambda: 2, ttl=60)
    assert node.get(K) == b"2"


def test_restart_while_it_is_loaded_costs_the_fill(node: Memcached, caches: Caches) -> None:
    cache = caches(node)

    def load() -> int:
        node.restart()
        return 1

    assert 1 == cache.get_or_load(K, load, ttl=60)
    assert node.get(K) is None


def test_connection_lost_between_gets_and_cas_is_never_made_again(node: Memcached) -> None:
    """After a restart the same CAS number belongs to another placeholder; only the connection shows that."""
    mine, other = Item(b"mine", LEASE), Item(b"other", LEASE)
    host, port = node.address.split(":")
    reader = BlockingNode("n1", Address(host, int(port)), prefix="", timeout=5, access=Access())
    assert [True] == reader.answer([Add(K, mine, 30)])
    (held,) = reader.answer([Gets(K)])
    assert isinstance(held, Held)
    node.restart()
    somebody = BlockingNode("n1", Address(host, int(port)), prefix="", timeout=5, access=Access())
    assert [True] == somebody.answer([Add(K, other, 30)])
    (theirs,) = somebody.answer([Gets(K)])
    assert isinstance(theirs, Held)
    assert held.token.number == theirs.token.number
    assert [Failure.DOWN] == reader.answer([Cas(K, Item(b"old"), 60, held.token)])
    assert node.get(K) == b"other"
    assert not held.token.connection.is_open
    somebody.let_go(theirs.token)
    somebody.close()


async def test_unsolicited_answer_is_never_taken_for_the_next_one(node: Memcached, proxy: ProxyFactory) -> None:
    between = await proxy(node.address)
    cache = LookAsideCache([between.address])
    await asyncio.to_thread(cache.get_or_load, K, lambda: 1, ttl=60)
    between.inject(b"VALUE product:1 0 1\r\n7\r\nEND\r\n")
    (idle,) = only_node(cache)._idle
    while idle.is_fit():
        await asyncio.sleep(0.001)
    assert 1 == await asyncio.to_thread(cache.get_or_load, K, never, ttl=60)
    cache.close()


def test_connections_do_not_outlive_a_fork(node: Memcached, caches: Caches) -> None:
    cache = caches(node)
    cache.get_or_load(K, lambda: 1, ttl=60)
    (mine,) = only_node(cache)._idle
    pid = os.fork()
    if pid == 0:
        cache.get_or_load(K, never, ttl=60)
        os._exit(int(mine in only_node(cache)._idle))
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert 1 == cache.get_or_load(K, never, ttl=60)


def test_memcached_without_cas_is_reported_once_and_read_through(memcached: MemcachedFactory, caches: Caches) -> None:
    node = memcached("-C")
    cache = caches(node)
    with capture_logs() as logs:
        for number in range(5):
            assert number == cache.get_or_load(K, lambda number=number: number, ttl=60)  # type: ignore[misc]
    assert ["memcached runs without CAS (-C): serving from the source, caching nothing"] == [
        log["event"] for log in logs
    ]
    assert 3 + 4 == commands(node), "later reads cost one command, and wait for nothing"


def test_node_on_a_unix_socket_is_read_through(tmp_path: Path) -> None:
    path = str(tmp_path / "memcached.sock")
    process = subprocess.Popen(["memcached", "-u", "root", "-U", "0", "-s", path])
    try:
        while not Path(path).is_socket():
            time.sleep(0.01)
        with closing(LookAsideCache([path])) as cache:
            assert [1, 1] == [cache.get_or_load(K, lambda: 1, ttl=60), cache.get_or_load(K, never, ttl=60)]
        assert 1 == asyncio.run(read_once(f"unix:{path}"))
    finally:
        process.kill()
        process.wait()


async def read_once(address: str) -> Any:
    async def load() -> Any:
        return never()

    cache = AsyncLookAsideCache([address])
    try:
        return await cache.get_or_load(K, load, ttl=60)
    finally:
        cache.close()
        await asyncio.sleep(0)


def only_node(cache: LookAsideCache) -> BlockingNode:
    (node,) = cache.nodes._placement.nodes.values()
    return node
