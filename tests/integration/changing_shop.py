"""A shop whose prices change all the time and that remembers its past, and those who judge by it: a judge of an
auditor's verdicts, and a naive comparer."""

import asyncio
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg

from invalidator.audit.auditor import Auditor
from invalidator.audit.sandwich import Answer, Sighting
from invalidator.audit.tracker import Check
from invalidator.audit.verdict import Verdict
from tests.servers import Memcached, ServerError

#: Prices of a key that are remembered.
REMEMBERED = 2_000
CHANGE = """UPDATE products SET price = new.price FROM unnest(%s::int[], %s::int[]) AS new(id, price)
    WHERE products.id = new.id"""


class Changes(NamedTuple):
    """A way to change keys."""

    #: Prices that a key takes in turn: with few, the same content returns all the time.
    prices: int
    #: Seconds by which an event may come after its commit, as from an outbox whose relay is behind.
    late: float
    #: Seconds between two bursts of changes, at most.
    rest: float = 1.5
    keys: int = 20
    #: Keys that one transaction changes, and one event names.
    together: int = 1


class Period(NamedTuple):
    """The time of a price: it began between these two moments."""

    earliest: float
    latest: float
    price: int


class Shop:
    """A source in memory."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.keys = [f"product:{number}" for number in range(changes.keys)]
        self._lock = threading.Lock()
        #: For each key its prices, the last one last.
        self.past = {key: deque([Period(0.0, time.monotonic(), 0)], REMEMBERED) for key in self.keys}
        #: The keys whose next price is being set, and since when.
        self._setting: dict[str, float] = {}

    def shelves(self) -> list[list[str]]:
        """Return the keys that change together."""
        step = self.changes.together
        return [self.keys[first : first + step] for first in range(0, len(self.keys), step)]

    async def change(self, keys: Sequence[str], chance: random.Random) -> None:
        """Set other prices."""
        prices = {key: (self.past[key][-1].price + chance.randrange(1, 3)) % self.changes.prices for key in keys}
        earliest = time.monotonic()
        self._setting |= dict.fromkeys(keys, earliest)
        await self._set(prices)
        with self._lock:
            latest = time.monotonic()
            for key, price in prices.items():
                self.past[key].append(Period(earliest, latest, price))
                del self._setting[key]

    async def _set(self, prices: Mapping[str, int]) -> None:
        """Do nothing: the past is the source."""

    def prices(self, keys: Sequence[str]) -> dict[str, int]:
        """Return the prices, by one new read."""
        with self._lock:
            return {key: self.past[key][-1].price for key in keys}

    def price(self, key: str) -> int:
        """Return the price, by a new read."""
        return self.prices([key])[key]

    def source(self, key: str) -> Callable[[], object]:
        return lambda: self.price(key)

    def was_true(self, key: str, price: int, since: float, until: float) -> bool:
        """Return True if the price was certainly the key's at any moment of this time."""
        with self._lock:
            last = Period(self._setting.get(key, float("inf")), float("inf"), -1)
            return any(
                one.price == price and one.latest <= until and following.earliest >= since
                for one, following in self._since(key, since, last)
            )

    def may_have_been_true(self, key: str, price: int, since: float, until: float) -> bool:
        """Return True if the price may have been the key's at any moment of this time, or if one is being set now."""
        with self._lock:
            last = Period(float("inf"), float("inf"), -1)
            return key in self._setting or any(
                one.price == price and one.earliest <= until for one, _ in self._since(key, since, last)
            )

    def _since(self, key: str, since: float, last: Period) -> Iterator[tuple[Period, Period]]:
        """Yield each price that may have held after this time, with the one that followed it, the newest first."""
        following = last
        for one in reversed(self.past[key]):
            if following.latest < since:
                return
            yield one, following
            following = one


class StoredShop(Shop):
    """A source in PostgreSQL, whose log the auditor reads."""

    def __init__(self, changes: Changes, url: str) -> None:
        super().__init__(changes)
        self._url = url
        self._of_thread = threading.local()
        self._connections: list[psycopg.Connection[Any]] = []
        self._connected().execute("CREATE TABLE products (id int PRIMARY KEY, price int)")
        self._execute("INSERT INTO products SELECT id, 0 FROM generate_series(0, %s) id", changes.keys - 1)
        self._connected().execute("CREATE PUBLICATION invalidator FOR TABLE products")

    async def _set(self, prices: Mapping[str, int]) -> None:
        """Commit prices, however often the server has to be tried."""
        new = [*map(id_of, prices)], [*prices.values()]
        while True:
            try:
                await asyncio.to_thread(self._execute, CHANGE, *new)
            except psycopg.OperationalError:
                await asyncio.sleep(0.1)
            else:
                return

    def prices(self, keys: Sequence[str]) -> dict[str, int]:
        rows = self._execute("SELECT id, price FROM products WHERE id = ANY(%s)", [*map(id_of, keys)]).fetchall()
        return {f"product:{id}": price for id, price in rows}

    def _execute(self, statement: Any, *values: object) -> "psycopg.Cursor[Any]":
        return self._connected().execute(statement, values)

    def _connected(self) -> "psycopg.Connection[Any]":
        found = getattr(self._of_thread, "connection", None)
        if found is None or found.closed:
            found = self._of_thread.connection = psycopg.connect(self._url, autocommit=True)
            self._connections.append(found)
        return found

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._connections:
            connection.close()


def id_of(key: str) -> int:
    return int(key.removeprefix("product:"))


class Judge:
    """Compares each verdict with an account of its own: the source's past, and what the nodes answered.

    A false alarm is a value called stale that was certainly the source's within the delay. A miss is a key called fresh
    or absent although a node held a value that certainly was not.
    """

    def __init__(self, shop: Shop, auditor: Auditor) -> None:
        self._shop = shop
        #: By the task of a check, since two of one key may be under way once the feed was lost: the time of its last
        #: look at the nodes, and the prices that it found there.
        self._looks: WeakKeyDictionary[object, tuple[float, list[int]]] = WeakKeyDictionary()
        self.stale = self.checks = 0
        self.false_alarms: list[object] = []
        self.misses: list[object] = []
        tracker, nodes = auditor._tracker, auditor._nodes
        self._stale, tracker._stale = tracker._stale, self._judge_stale  # type: ignore[method-assign]
        self._verdict, tracker._verdict = tracker._verdict, self._judge  # type: ignore[method-assign]
        self._gets, nodes.gets = nodes.gets, self._ask  # type: ignore[method-assign]

    async def _ask(self, key: str, labels: Collection[str] | None = None) -> Mapping[str, Answer]:
        if labels is not None:
            return await self._gets(key, labels)
        asked, found = time.monotonic(), await self._gets(key)
        values = [one for one in found.values() if isinstance(one, Sighting) and not one.is_placeholder]
        self._looks[asyncio.current_task()] = asked, [json.loads(one.item.data) for one in values]
        return found

    async def _judge(self, check: Check, delay: float) -> Verdict:
        """Judge a key that the auditor does not call stale."""
        verdict = await self._verdict(check, delay)
        self.checks += verdict.is_checked
        if verdict.is_checked and not verdict.is_stale:
            (asked, prices), now = self._looks[asyncio.current_task()], time.monotonic()
            for price in prices:
                if not self._shop.may_have_been_true(check.key, price, asked - delay, now):
                    self.misses.append((check.key, price, delay, verdict, asked))
        return verdict

    async def _judge_stale(self, check: Check, label: str, seen: Sighting, delay: float) -> Verdict:
        """Judge a value that the auditor calls stale since this delay."""
        (asked, _), price = self._looks[asyncio.current_task()], json.loads(seen.item.data)
        self.stale += 1
        if self._shop.was_true(check.key, price, asked - delay, asked):
            self.false_alarms.append((check.key, label, price, delay, asked))
        return await self._stale(check, label, seen, delay)


class Naive:
    """A comparer without guards: reads the cache, then the source, and believes that."""

    def __init__(self, shop: Shop, nodes: list[Memcached]) -> None:
        self._shop = shop
        self._nodes = nodes
        self.compared = self.alarms = 0

    async def compare(self, chance: random.Random) -> None:
        while True:
            await asyncio.sleep(0.02)
            key = chance.choice(self._shop.keys)
            try:
                found = [node.get(key) for node in self._nodes]
                await asyncio.sleep(0.002)
                truth = await asyncio.to_thread(self._shop.price, key)
            except (OSError, ServerError, psycopg.OperationalError):  # a server that restarts
                await asyncio.sleep(0.1)
                continue
            values = [one for one in found if one and one.isdigit()]
            self.compared += len(values)
            self.alarms += sum(1 for one in values if json.loads(one) != truth)
