"""A shop whose prices change all the time and that remembers its past, and those who judge by it: a judge of an
auditor's verdicts, and a naive comparer."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import psycopg

from invalidator.audit.auditor import Auditor
from invalidator.audit.sandwich import Answer, Sighting
from invalidator.audit.tracker import Check
from invalidator.audit.verdict import Verdict
from tests.servers import Memcached, ServerError

KEYS = [f"product:{number}" for number in range(20)]


class Changes(NamedTuple):
    """A way to change keys."""

    #: Prices that a key takes in turn: with few, the same content returns all the time.
    prices: int
    #: Seconds by which an event may come after its commit, as from an outbox whose relay is behind.
    late: float


class Period(NamedTuple):
    """The time of a price: it began between these two moments."""

    earliest: float
    latest: float
    price: int


class Shop:
    """A source in memory."""

    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self._lock = threading.Lock()
        #: For each key its prices, the last one last.
        self.past: dict[str, list[Period]] = {key: [Period(0.0, time.monotonic(), 0)] for key in KEYS}
        #: The keys whose next price is being set, and since when.
        self._setting: dict[str, float] = {}

    async def change(self, key: str, chance: random.Random) -> None:
        """Set another price."""
        price = (self.past[key][-1].price + chance.randrange(1, 3)) % self.changes.prices
        earliest = self._setting[key] = time.monotonic()
        await self._set(key, price)
        with self._lock:
            self.past[key].append(Period(earliest, time.monotonic(), price))
            del self._setting[key]

    async def _set(self, key: str, price: int) -> None:
        """Do nothing: the past is the source."""

    def price(self, key: str) -> int:
        """Return the price, by a new read."""
        with self._lock:
            return self.past[key][-1].price

    def source(self, key: str) -> Callable[[], object]:
        return lambda: self.price(key)

    def was_true(self, key: str, price: int, since: float, until: float) -> bool:
        """Return True if the price was certainly the key's at any moment of this time."""
        with self._lock:
            past = self.past[key]
            ends = [*(one.earliest for one in past[1:]), self._setting.get(key, float("inf"))]
        return any(
            one.price == price and one.latest <= until and end >= since for one, end in zip(past, ends, strict=False)
        )

    def may_have_been_true(self, key: str, price: int, since: float, until: float) -> bool:
        """Return True if the price may have been the key's at any moment of this time, or if one is being set now."""
        with self._lock:
            past, is_setting = self.past[key], key in self._setting
            ends = [*(one.latest for one in past[1:]), float("inf")]
        return is_setting or any(
            one.price == price and one.earliest <= until and end >= since for one, end in zip(past, ends, strict=False)
        )


class StoredShop(Shop):
    """A source in PostgreSQL, whose log the auditor reads."""

    def __init__(self, changes: Changes, url: str) -> None:
        super().__init__(changes)
        self._url = url
        self._of_thread = threading.local()
        self._connections: list[psycopg.Connection[Any]] = []
        self._connected().execute("CREATE TABLE products (id int PRIMARY KEY, price int)")
        self._connected().execute("INSERT INTO products SELECT id, 0 FROM generate_series(0, 19) id")
        self._connected().execute("CREATE PUBLICATION invalidator FOR TABLE products")

    async def _set(self, key: str, price: int) -> None:
        """Commit a price, however often the server has to be tried."""
        while True:
            try:
                await asyncio.to_thread(
                    self._execute, "UPDATE products SET price = %s WHERE id = %s", price, id_of(key)
                )
            except psycopg.OperationalError:
                await asyncio.sleep(0.1)
            else:
                return

    def price(self, key: str) -> int:
        ((price,),) = self._execute("SELECT price FROM products WHERE id = %s", id_of(key)).fetchall()
        return int(price)

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
        self._asked: dict[str, float] = {}
        self._seen: dict[str, list[int]] = {}
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
        self._asked[key] = time.monotonic()
        found = await self._gets(key)
        self._seen[key] = [
            json.loads(one.item.data) for one in found.values() if isinstance(one, Sighting) and not one.is_placeholder
        ]
        return found

    async def _judge(self, check: Check, delay: float) -> Verdict:
        """Judge a key that the auditor does not call stale."""
        verdict = await self._verdict(check, delay)
        self.checks += verdict.is_checked
        if verdict.is_checked and not verdict.is_stale:
            key, since, now = check.key, self._asked[check.key] - delay, time.monotonic()
            if wrong := [
                price for price in self._seen[key] if not self._shop.may_have_been_true(key, price, since, now)
            ]:
                self.misses.append((key, wrong, delay, verdict))
        return verdict

    async def _judge_stale(self, check: Check, label: str, seen: Sighting, delay: float) -> Verdict:
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
        self.compared = self.alarms = 0

    async def compare(self, chance: random.Random) -> None:
        while True:
            key = chance.choice(KEYS)
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
