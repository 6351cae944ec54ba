"""Both caches, called alike: in this thread, and in an event loop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prometheus_client import REGISTRY

from invalidator.app import AsyncLookAsideCache, LookAsideCache

K = "product:1"


class Twin(Protocol):
    """A cache as both kinds of readers see it."""

    def get(self, load: Callable[[], Any], *, key: str = K, **asked: Any) -> Any: ...
    def get_many(self, keys: Sequence[str], load: Callable[[list[str]], Any], **asked: Any) -> Any: ...
    def cached(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]: ...
    def close(self) -> None: ...


class Threads:
    """The cache for threads."""

    def __init__(self, nodes: Sequence[str], position: Callable[[], Any] | None = None, **options: Any) -> None:
        self._cache = LookAsideCache(nodes, position=position, **options)

    def get(self, load: Callable[[], Any], *, key: str = K, **asked: Any) -> Any:
        return self._cache.get_or_load(key, load, **({"ttl": 60} | asked))

    def get_many(self, keys: Sequence[str], load: Callable[[list[str]], Any], **asked: Any) -> Any:
        return self._cache.get_many_or_load(keys, load, **({"ttl": 60} | asked))

    def cached(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        return self._cache.cached(key, ttl=60)(function)

    def close(self) -> None:
        self._cache.close()


class Tasks:
    """The cache for asyncio, on a loop of its own."""

    def __init__(self, nodes: Sequence[str], position: Callable[[], Any] | None = None, **options: Any) -> None:
        self._runner = asyncio.Runner()
        asked = awaitable(position) if position else None
        self._cache = AsyncLookAsideCache(nodes, position=asked, **options)

    def get(self, load: Callable[[], Any], *, key: str = K, **asked: Any) -> Any:
        return self._runner.run(self._cache.get_or_load(key, awaitable(load), **({"ttl": 60} | asked)))

    def get_many(self, keys: Sequence[str], load: Callable[[list[str]], Any], **asked: Any) -> Any:
        return self._runner.run(self._cache.get_many_or_load(keys, awaitable(load), **({"ttl": 60} | asked)))

    def cached(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        async def price(id: str) -> Any:
            return function(id)

        read = self._cache.cached(key, ttl=60)(price)
        return lambda *arguments: self._runner.run(call(read, *arguments))

    def close(self) -> None:
        async def close() -> None:
            self._cache.close()
            await asyncio.sleep(0)

        self._runner.run(close())

    def end(self) -> None:
        self.close()
        self._runner.close()


def awaitable(function: Callable[..., Any]) -> Callable[..., Any]:
    async def made(*arguments: Any) -> Any:
        return function(*arguments)

    return made


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return await function(*arguments)


Twins = Callable[..., Twin]


def never(*_: Any) -> Any:
    raise AssertionError("loaded, and should not have been")


def outcomes(outcome: str) -> float:
    return REGISTRY.get_sample_value("invalidator_lookaside_reads_total", {"outcome": outcome}) or 0.0
