"""Reads through the caches beside the plain clients, on private nodes: CPU microseconds of this process for each read.

python -m tests.benchmarks.reads [--rounds 5] [--reads 3000]

A round measures every contestant once, so that all of them meet the same noise. Printed are the medians.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient

from invalidator.app import AsyncLookAsideCache, LookAsideCache
from tests.servers import Memcached

VALUE = {"id": "abc-123", "name": "A garden chair, weatherproof", "price": 109.99, "sizes": [1, 2, 3]}
KEYS = [f"product:{number}" for number in range(100)]


def never(*_: Any) -> Any:
    raise AssertionError("loaded, and should not have been")


async def never_async(*_: Any) -> Any:
    never()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reads", type=int, default=3000)
    asked = parser.parse_args()
    with ExitStack() as stack:
        nodes = [stack.enter_context(Memcached()) for _ in range(3)]
        contestants = _contestants(nodes, stack)
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(asked.rounds):
            for name, (read, keys) in contestants.items():
                taken[name].append(_measure(read, asked.reads // keys))
    for name, microseconds in taken.items():
        print(f"{name:42} {statistics.median(microseconds):9.1f} µs")


def _measure(read: Callable[[int], None], reads: int) -> float:
    read(max(1, reads // 10))
    started = time.process_time()
    read(reads)
    return (time.process_time() - started) / reads * 1e6


def _contestants(nodes: list[Memcached], stack: ExitStack) -> dict[str, tuple[Callable[[int], None], int]]:
    addresses = [node.address for node in nodes]
    ours = stack.enter_context(closing(LookAsideCache(addresses)))
    ours.get_many_or_load(KEYS, lambda keys: dict.fromkeys(keys, VALUE), ttl=3600)
    plain = stack.enter_context(closing(Client(addresses[0], no_delay=True)))
    hashed = stack.enter_context(closing(HashClient(addresses, no_delay=True)))
    plain.set_many(dict.fromkeys(KEYS, json.dumps(VALUE)))
    runner = stack.enter_context(asyncio.Runner())
    twin = AsyncLookAsideCache(addresses)
    stack.callback(lambda: runner.run(_close(twin)))

    async def hits(count: int) -> None:
        for _ in range(count):
            await twin.get_or_load(KEYS[0], never_async, ttl=60)

    async def multi_gets(count: int) -> None:
        for _ in range(count):
            await twin.get_many_or_load(KEYS, never_async, ttl=60)

    return {
        "hit: pymemcache Client, json.loads": (lambda n: _repeat(n, lambda: json.loads(plain.get(KEYS[0]))), 1),
        "hit: pymemcache HashClient, json.loads": (lambda n: _repeat(n, lambda: json.loads(hashed.get(KEYS[0]))), 1),
        "hit: LookAsideCache": (lambda n: _repeat(n, lambda: ours.get_or_load(KEYS[0], never, ttl=60)), 1),
        "hit: AsyncLookAsideCache": (lambda n: runner.run(hits(n)), 1),
        "100 keys: Client on one node, json.loads": (
            lambda n: _repeat(n, lambda: [json.loads(value) for value in plain.get_many(KEYS).values()]), 10,
        ),
        "100 keys: LookAsideCache on three nodes": (
            lambda n: _repeat(n, lambda: ours.get_many_or_load(KEYS, never, ttl=60)), 10,
        ),
        "100 keys: AsyncLookAsideCache on three nodes": (lambda n: runner.run(multi_gets(n)), 10),
    }  # fmt: skip


async def _close(cache: AsyncLookAsideCache) -> None:
    cache.close()
    await asyncio.sleep(0)


def _repeat(count: int, read: Callable[[], Any]) -> None:
    for _ in range(count):
        read()


if __name__ == "__main__":
    main()
