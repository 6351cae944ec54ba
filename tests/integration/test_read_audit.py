"""Hits compared with the source on real memcached: stale values are found by reads, and values in motion never are."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, TypeVar

import pytest

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from invalidator.app.cache.audit.comparison import AuditOutcome, Comparison, Steps
from invalidator.app.cache.commands import Load
from invalidator.app.cache.items import Item, Json
from invalidator.bound import Block, bound
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import eventually
from tests.logs import capture_logs
from tests.servers import Memcached

Cache = TypeVar("Cache", bound=LookAsideCache | AsyncLookAsideCache)

K = "product:1"
KEYS = [f"product:{number}" for number in range(20)]
#: Shorter than the default, so that a test does not take long.
SETTLE = 0.3
#: Prices that a key takes in turn, so that the same content returns all the time.
PRICES = 3


def audited(node: Memcached, **options: Any) -> LookAsideCache:
    return settling(LookAsideCache([node.address], audit=1, **options))


def settling(cache: Cache) -> Cache:
    assert cache._audit
    cache._audit.comparison = Comparison(Json(), settle=SETTLE)
    return cache


def gets(node: Memcached) -> int:
    return int(node.stats()["cmd_get"])


# Planted


async def test_old_value_written_back_by_a_plain_set_is_found_by_a_read(memcached: MemcachedFactory) -> None:
    node = memcached()
    with closing(audited(node)) as cache, capture_logs() as lines:
        assert 109.99 == cache.get_or_load(K, lambda: 109.99, ttl=60)
        node.set(K, b"99.99")
        assert [99.99] * 3 == [cache.get_or_load(K, lambda: 109.99, ttl=60) for _ in range(3)]
        await eventually(lambda: cache.audited.stale == 3)
        assert bound([Block(3, 3)]) == cache.audited.bound
    assert [K] == [line["key"] for line in lines if line["log_level"] == "error"]
    assert b"99.99" == node.get(K), "reads repair nothing"


async def test_old_value_is_found_by_a_read_of_an_event_loop(memcached: MemcachedFactory) -> None:
    node = memcached()

    async def load() -> float:
        return 109.99

    with closing(settling(AsyncLookAsideCache([node.address], audit=1))) as cache:
        node.set(K, b"99.99")
        assert 99.99 == await cache.get_or_load(K, load, ttl=60)
        await eventually(lambda: (1, 1, 0) == cache.audited[:3])


async def test_a_fresh_hit_costs_one_command_and_one_load_more_and_only_if_it_is_in_the_sample(
    memcached: MemcachedFactory,
) -> None:
    node, loads = memcached(), []

    def load() -> int:
        loads.append(1)
        return 1

    with closing(audited(node)) as cache, closing(LookAsideCache([node.address], audit=1e-9)) as seldom:
        cache.get_or_load(K, load, ttl=60)
        before = gets(node)
        cache.get_or_load(K, load, ttl=60)
        await eventually(lambda: cache.audited.checked == 1)
        assert (before + 2, 2) == (gets(node), len(loads))
        for _ in range(100):
            seldom.get_or_load(K, load, ttl=60)
        assert (before + 102, 2, 0) == (gets(node), len(loads), seldom.audited.checked)


def restart(node: Memcached) -> None:
    """Give the node another life, in which the same item has the same number."""
    node.restart()
    node.set(K, b"1")


@pytest.mark.parametrize("accident", [Memcached.pause, restart], ids=["hangs", "restarts"])
async def test_value_of_a_node_that_fails_while_it_is_compared_is_undecided(
    memcached: MemcachedFactory, accident: Callable[[Memcached], None]
) -> None:
    node = memcached()
    node.set(K, b"1")

    loads: list[int] = []

    def load() -> int:
        loads.append(2)
        if len(loads) == 1:
            accident(node)
        return 2

    with closing(audited(node, timeout=1.5)) as cache:
        assert 1 == cache.get_or_load(K, load, ttl=60)
        await eventually(lambda: (0, 0, 1) == cache.audited[:3])


# No false alarms


class Shop:
    """Prices that change 50 times a second each, with an eviction after each commit, and a record of all of them."""

    def __init__(self, node: Memcached) -> None:
        self._node = node
        self._lock = threading.Lock()
        self.past: dict[str, list[tuple[float, int]]] = {key: [(0.0, 0)] for key in KEYS}

    def price(self, key: str) -> int:
        with self._lock:
            return self.past[key][-1][1]

    def change(self, keys: list[str], seed: int, done: threading.Event) -> None:
        chance = random.Random(seed)
        while not done.wait(chance.expovariate(50 * len(keys))):
            key = chance.choice(keys)
            with self._lock:
                price = (self.past[key][-1][1] + chance.randrange(1, PRICES)) % PRICES
                self.past[key].append((time.monotonic(), price))
            done.wait(chance.uniform(0, 0.005))
            self._node.delete(key)

    def was_true(self, key: str, price: int, *, since: float) -> bool:
        """Return True if the price was the key's at any moment from then on."""
        with self._lock:
            past = self.past[key]
        return any(
            known == price and (number == len(past) - 1 or past[number + 1][0] >= since)
            for number, (_, known) in enumerate(past)
        )


class Judged(Comparison):
    """Comparisons whose verdict "stale" is compared with the record."""

    def __init__(self, shop: Shop) -> None:
        super().__init__(Json(), settle=SETTLE)
        self._shop = shop
        self.false_alarms: list[tuple[str, Item]] = []

    def steps(self, key: str, served: Item) -> Steps:
        steps, loaded_at = super().steps(key, served), list[float]()
        try:
            command = next(steps)
            while True:
                answer = yield command
                loaded_at += [time.monotonic()] if isinstance(command, Load) else []
                command = steps.send(answer)
        except StopIteration as end:
            if end.value is AuditOutcome.STALE and self._shop.was_true(key, int(served.data), since=loaded_at[0]):
                self.false_alarms.append((key, served))
            outcome: AuditOutcome = end.value
            return outcome


@contextmanager
def threads(*works: Callable[[threading.Event], object]) -> Iterator[None]:
    done = threading.Event()
    running = [threading.Thread(target=work, args=(done,)) for work in works]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in running:
            thread.join()


async def test_values_that_change_50_times_a_second_raise_no_alarm_where_a_naive_comparer_does(
    memcached: MemcachedFactory,
) -> None:
    node = memcached()
    shop, chance, naive = Shop(node), random.Random(1), 0
    judged = Judged(shop)
    with closing(LookAsideCache([node.address], audit=0.05)) as cache:
        assert cache._audit
        cache._audit.comparison = judged
        with threads(*(partial(_changing, shop, KEYS[part::2], part) for part in range(2))):
            until = time.monotonic() + 3
            while time.monotonic() < until:
                key = chance.choice(KEYS)
                served = cache.get_or_load(key, partial(shop.price, key), ttl=60)
                naive += served != shop.price(key)
        await eventually(lambda: sum(cache.audited[:3]) > 30 and not _under_way(cache))
        assert [] == judged.false_alarms
        assert cache.audited.checked > 30
    assert naive > 0


def _changing(shop: Shop, keys: list[str], seed: int, done: threading.Event) -> None:
    shop.change(keys, seed, done)


def _under_way(cache: LookAsideCache) -> int:
    running: Any = cache._audit
    return int(running._running.under_way())
