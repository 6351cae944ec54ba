"""No false alarms: keys that change all the time, while nodes restart and connections are lost.

Every value that a key ever had is written down with its time. A verdict "stale" is a false alarm if the value was the
source's at any moment of the delay that the verdict is about.
"""

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from invalidator.app import LookAsideCache
from invalidator.audit.auditor import Auditor
from invalidator.audit.sandwich import Answer, Sighting
from invalidator.audit.tracker import Check
from invalidator.audit.verdict import Verdict
from invalidator.settings import AuditSettings, RuleSettings, Settings
from tests.integration.conftest import MemcachedFactory
from tests.integration.shop import Publishing, eventually, publishing, settings_for, working
from tests.servers import Broker, Memcached, ServerError

KEYS = [f"product:{number}" for number in range(20)]
DELAYS = [0.02, 0.1, 0.3]


class Changes(NamedTuple):
    """A way to change keys."""

    #: Prices that a key takes in turn: with few, the same content returns all the time.
    prices: int
    #: Seconds by which an event may come after its commit, as from an outbox whose relay is behind.
    late: float


TO_AND_FRO = Changes(prices=3, late=0.0)
LATE_EVENTS = Changes(prices=1_000_000, late=3.0)


class Shop:
    """A source that remembers its past."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._lock = threading.Lock()
        self.past: dict[str, list[tuple[float, int]]] = {key: [(time.monotonic(), 0)] for key in KEYS}

    def change(self, key: str, chance: random.Random) -> None:
        with self._lock:
            price = (self.past[key][-1][1] + chance.randrange(1, 3)) % self.changes.prices
            self.past[key].append((time.monotonic(), price))

    def price(self, key: str) -> int:
        with self._lock:
            return self.past[key][-1][1]

    def source(self, key: str) -> Callable[[], object]:
        return lambda: self.price(key)

    def was_true(self, key: str, price: int, since: float, until: float) -> bool:
        """Return True if the price was the key's at any moment of this time."""
        with self._lock:
            past = [*self.past[key], (float("inf"), -1)]
        return any(
            known == price and begin <= until and past[number + 1][0] >= since
            for number, (begin, known) in enumerate(past[:-1])
        )


class Judge:
    """Compares each verdict that counts with the source's past."""

    def __init__(self, shop: Shop, auditor: Auditor) -> None:
        self._shop = shop
        self._asked: dict[str, float] = {}
        self.stale = self.checks = 0
        self.false_alarms: list[object] = []
        tracker, nodes, results = auditor._tracker, auditor._nodes, auditor._results
        self._stale, tracker._stale = tracker._stale, self._judge  # type: ignore[method-assign]
        self._gets, nodes.gets = nodes.gets, self._ask  # type: ignore[method-assign]
        self._count, results.count = results.count, self._counted  # type: ignore[method-assign]

    def _counted(self, delay: float, verdict: Verdict) -> None:
        self.checks += verdict.is_checked
        self._count(delay, verdict)

    async def _ask(self, key: str, labels: Collection[str] | None = None) -> Mapping[str, Answer]:
        if labels is None:
            self._asked[key] = time.monotonic()
        return await self._gets(key, labels)

    async def _judge(self, check: Check, label: str, seen: Sighting, delay: float) -> Verdict:
        """Judge a value that the auditor calls stale since this delay."""
        asked, price = self._asked[check.key], json.loads(seen.item.data)
        self.stale += 1
        if self._shop.was_true(check.key, price, asked - delay, asked):
            self.false_alarms.append((check.key, label, price, delay, asked))
        return await self._stale(check, label, seen, delay)


class Naive:
    """A comparer without guards: reads the cache, then the source, and believes that."""

    def __init__(self, shop: Shop, nodes: list[Memcached]) -> None:
        self._shop = shop
        self._nodes = nodes
        self.alarms = 0

    async def compare(self, chance: random.Random) -> None:
        while True:
            key = chance.choice(KEYS)
            try:
                found = [node.get(key) for node in self._nodes]
            except (OSError, ServerError):  # a node that restarts
                found = []
            await asyncio.sleep(0.002)
            truth = self._shop.price(key)
            self.alarms += sum(1 for one in found if one and one.isdigit() and json.loads(one) != truth)


@contextmanager
def reading(shop: Shop, nodes: list[Memcached]) -> Iterator[None]:
    """Read all keys in a thread, through the cache."""
    done, cache = threading.Event(), LookAsideCache({f"c{n}": node.address for n, node in enumerate(nodes, 1)})
    chance = random.Random(2)

    def read() -> None:
        while not done.wait(0.001):
            key = chance.choice(KEYS)
            cache.get_or_load(key, partial(shop.price, key), ttl=60)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        cache.close()


async def publish(publisher: Publishing, key: str, *, after: float) -> None:
    await asyncio.sleep(after)
    await publisher.update(key.removeprefix("product:"))


async def change(shop: Shop, publisher: Publishing, key: str, chance: random.Random) -> None:
    """Change a key 50 times a second for a while, rest for a while, and so on."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            await change_for_a_while(shop, publisher, key, chance, tasks)
            await asyncio.sleep(chance.uniform(0.0, 1.5))


async def change_for_a_while(
    shop: Shop, publisher: Publishing, key: str, chance: random.Random, tasks: asyncio.TaskGroup
) -> None:
    for _ in range(chance.randrange(1, 25)):
        shop.change(key, chance)
        event = publish(publisher, key, after=chance.uniform(0.0, shop.changes.late))
        if shop.changes.late:
            tasks.create_task(event)
        else:
            await event
        await asyncio.sleep(chance.expovariate(50))


async def disturb(nodes: list[Memcached], broker: Broker, vhost: str, chance: random.Random) -> None:
    """Restart nodes, and close the connections of auditor and worker."""
    while True:
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        if chance.random() < 0.5:
            await asyncio.to_thread(chance.choice(nodes).restart)
        else:
            await asyncio.to_thread(_close_connection, broker, vhost, chance)


def _close_connection(broker: Broker, vhost: str, chance: random.Random) -> None:
    name = vhost.rpartition("/")[2]
    ours = [
        each["name"]
        for each in broker.api("GET", f"/vhosts/{name}/connections")
        if each.get("client_properties", {}).get("connection_name", "").startswith("invalidator ")
    ]
    if ours:
        broker.api("DELETE", f"/connections/{chance.choice(ours).replace(' ', '%20').replace('>', '%3E')}")


def audited(vhost: str, nodes: list[Memcached], folder: Path) -> Settings:
    audit = AuditSettings(
        account=str(folder / "account.sqlite"), share=1.0, delays=DELAYS, reads=5000.0, commands=50_000.0
    )
    return replace(
        settings_for(vhost, nodes, audit=audit), rule=[RuleSettings(on="product_updated", evict=["product:{id}"])]
    )


@asynccontextmanager
async def auditing(auditor: Auditor) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    running = asyncio.create_task(auditor.run(stopping))
    await eventually(lambda: running.done() or auditor.health().is_ready)
    yield
    stopping.set()
    await running


async def run(
    changes: Changes, vhost: str, broker: Broker, nodes: list[Memcached], folder: Path, *, seconds: float
) -> tuple[Judge, Naive]:
    shop, chance, settings = Shop(changes), random.Random(1), audited(vhost, nodes, folder)
    auditor = Auditor(settings, shop.source)
    judge, naive = Judge(shop, auditor), Naive(shop, nodes)
    async with working(settings), publishing(vhost) as publisher, auditing(auditor):
        with reading(shop, nodes):
            tasks = [asyncio.create_task(change(shop, publisher, key, chance)) for key in KEYS]
            tasks.append(asyncio.create_task(disturb(nodes, broker, vhost, chance)))
            tasks.append(asyncio.create_task(naive.compare(chance)))
            done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not done, "a part of the test failed"
        await eventually(lambda: not len(auditor._tracker))
    print(f"checks {judge.checks}, stale {judge.stale}, false {len(judge.false_alarms)}, naive {naive.alarms}")
    return judge, naive


@pytest.mark.parametrize("changes", [TO_AND_FRO, LATE_EVENTS], ids=["to and fro", "late events"])
async def test_keys_that_change_50_times_a_second_raise_no_false_alarm_where_a_naive_comparer_does(
    changes: Changes, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes = [memcached(), memcached()]
    judge, naive = await run(changes, vhost, broker, nodes, tmp_path, seconds=5)
    assert [] == judge.false_alarms
    assert judge.checks > 10
    assert naive.alarms > 0


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("changes", [TO_AND_FRO, LATE_EVENTS], ids=["to and fro", "late events"])
async def test_half_an_hour_of_changes_raises_no_false_alarm(
    changes: Changes, vhost: str, broker: Broker, memcached: MemcachedFactory, tmp_path: Path
) -> None:
    nodes = [memcached(), memcached()]
    judge, naive = await run(changes, vhost, broker, nodes, tmp_path, seconds=1800)
    assert [] == judge.false_alarms
    assert naive.alarms > 0
