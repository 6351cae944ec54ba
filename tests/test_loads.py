"""The cost of an eviction for the database: a hot key, always read and often evicted, in simulated time."""

import heapq
from collections import Counter
from collections.abc import Callable, Generator
from itertools import count
from random import Random
from typing import Any

import pytest

from invalidator.app.cache.commands import Add, Cas, Get, Gets, LetGo, Load, ReadOutcome, Wait
from invalidator.app.cache.freshness import Loaded, Source
from invalidator.app.cache.items import LEASE, Item, Json
from invalidator.app.cache.reader import Reader, Terms
from tests.explorer.model import Model

KEY = "k"
SECONDS = 20
READS_A_SECOND = 1_000
EVICTIONS_A_SECOND = 10
#: Seconds that a command on memcached takes, there and back.
ROUND_TRIP = 0.0005


class HotKey:
    """Reads and evictions that begin at random times, with the delays of everything that a read waits for."""

    def __init__(self, *, load_seconds: float, seed: int = 1) -> None:
        self.counts: Counter[Any] = Counter()
        self._chance = Random(seed)
        self._load_seconds = load_seconds
        self._memcached = Model()
        self._now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._reader = Reader(
            Source(),
            Json(),
            clock=lambda: self._now,
            new_placeholder=lambda: Item(b"%d" % next(self._numbers), LEASE),
        )

    def run(self) -> None:
        for start, rate in ((self._read, READS_A_SECOND), (self._evict, EVICTIONS_A_SECOND)):
            for _ in range(rate * SECONDS):
                self._at(self._chance.uniform(0, SECONDS), start)
        while self._due:
            self._now, _, act = heapq.heappop(self._due)
            act()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), act))

    def _evict(self) -> None:
        self._memcached.delete(KEY)
        self.counts["evictions"] += 1

    def _read(self) -> None:
        self._go_on(self._reader.read(KEY, Terms(ttl=3600, negative_ttl=3600)), None)

    def _go_on(self, steps: Generator[Any, Any, Any], answer: Any) -> None:
        try:
            command = steps.send(answer)
        except StopIteration as end:
            self.counts[end.value.outcome] += 1
            return
        # memcached executes the command half-way through the round trip. The answer arrives at the end.
        half = self._seconds(command) / 2
        self._at(self._now + half, lambda: self._answer(steps, command, self._now + half))

    def _answer(self, steps: Generator[Any, Any, Any], command: Any, then: float) -> None:
        answer = self._do(command)
        self._at(then, lambda: self._go_on(steps, answer))

    def _seconds(self, command: Any) -> float:
        match command:
            case Load():
                return self._chance.uniform(0.5, 1.5) * self._load_seconds
            case Wait(seconds):
                return seconds
        return ROUND_TRIP

    def _do(self, command: Any) -> Any:
        match command:
            case Get(key):
                return self._memcached.get(key)
            case Add(key, item, expire):
                return self._memcached.add(key, item, expire)
            case Gets(key):
                return self._memcached.gets(key)
            case Cas(key, item, expire, token):
                return self._memcached.cas(key, item, expire, token)
            case Load():
                self.counts["loads"] += 1
                return Loaded({"price": 1})
            case Wait() | LetGo():
                return None
        raise AssertionError(command)


@pytest.mark.parametrize("milliseconds", [10, 30])
def test_key_read_1000_times_a_second_and_evicted_10_times_costs_one_load_an_eviction(milliseconds: int) -> None:
    hot = HotKey(load_seconds=milliseconds / 1000)
    hot.run()
    loads, evictions = hot.counts["loads"], hot.counts["evictions"]
    print(f"a load takes {milliseconds} ms: {loads / evictions:.3f} loads an eviction")
    assert READS_A_SECOND * SECONDS == sum(hot.counts[outcome] for outcome in ReadOutcome)
    assert loads <= 1.1 * evictions
    assert hot.counts[ReadOutcome.FILLED] > 0.5 * evictions
