"""A near cache: copies in the process itself, above the shared layer, dropped when a worker announces their eviction.

    get_or_load ──> copies ──(none)──> shared layer (LookAsideCache) ──(none)──> load
                      ▲
       cache.purged ──┘  from a thread of its own (see `listener`)

Promises:

1. No value is served longer than `max_age` seconds after it was read, whatever fails.
2. An evicted value is dropped when its eviction is announced, within a few milliseconds. If the announcement is lost,
   it is dropped with the worker's next heartbeat or its silence, within 2 s. (Exactly: 2 s after the eviction, if this
   worker had announced before and its connection was not hung for longer than that. An announcement counts from when
   it is received here: if this process was too busy to receive, the time that it waited here is added. `store` and
   `sequence` have the rules.)
3. While no worker is announcing nothing is kept, and every read goes to the shared layer.
4. Only values that the shared layer itself returned are kept. A value that was just loaded is kept by the next read,
   which finds it there. Until then it may come from a lagging replica: good enough to serve once, and no more.
"""

import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from invalidator.app.cache.counting import counters
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.freshness import Loaded
from invalidator.app.near.listener import listen
from invalidator.app.near.store import Copies, PendingRead
from invalidator.app.publish.message import broker_settings
from invalidator.broker.consume.listener import Background
from invalidator.settings import BrokerSettings

#: Seconds. This bound holds even if no announcement arrives.
MAX_AGE = 10.0

_COUNT = counters("invalidator_near_reads_total", "Reads through a near cache, by outcome", ["hit", "miss"])
_count_hit, _count_miss = _COUNT["hit"], _COUNT["miss"]

T = TypeVar("T")
S = TypeVar("S")


class Shared(Protocol):
    """The layer below, such as `LookAsideCache`."""

    def get_or_load(self, key: str, load: Callable[[], Any], *, ttl: float, negative_ttl: float | None) -> Any: ...


class AsyncShared(Protocol):
    """The layer below for asyncio, such as `AsyncLookAsideCache`."""

    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[Any]], *, ttl: float, negative_ttl: float | None
    ) -> Any: ...


class _Near(Generic[S]):
    """The common base of both caches: the copies, and the thread that listens.

    The thread starts with the first read. After a fork the child begins with no copies and a thread of its own.
    """

    def __init__(
        self,
        shared: S,
        broker: str | BrokerSettings,
        *,
        cluster: str,
        size: int = 10_000,
        max_age: float = MAX_AGE,
    ) -> None:
        self._shared = shared
        self._broker = broker_settings(broker)
        self._cluster = cluster
        self._size = size
        self._max_age = max_age
        self.begin_in_child()
        begin_anew_after_fork(self)

    def __len__(self) -> int:
        """Return the number of copies."""
        return len(self._copies)

    def close(self) -> None:
        """Stop listening. Later reads are not kept."""
        if self._listening:
            self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin_in_child(self) -> None:
        """Start without copies and without a listener, as in a forked child, which has inherited no thread."""
        self._copies = Copies(size=self._size)
        self._listening: Background | None = None
        self._starting = threading.Lock()

    def _begin_read(self, key: str) -> PendingRead:
        if not self._listening:
            self._listen()
        _count_miss()
        return self._copies.begin(key)

    def _listen(self) -> None:
        with self._starting:
            if not self._listening:
                copies = self._copies
                self._listening = Background(
                    lambda: listen(lambda: self._broker, self._cluster, copies, role="near"),
                    name=f"near cache of {self._cluster}",
                )

    def _keep(self, read: PendingRead, value: Any, ttl: float, negative_ttl: float | None) -> None:
        if value is None and negative_ttl is not None:
            ttl = negative_ttl
        self._copies.keep(read, value, max_age=min(self._max_age, ttl))


class NearCache(_Near[Shared]):
    """A near cache for threads: Flask, Django, scripts.

    `broker` is a URL, or settings if more than the URL differs from the defaults. Its user needs the right to declare a
    queue, `invalidator-near.…`, and to read the exchange of announcements. `size` is the number of values. All readers
    of a key get the same object: treat it as read-only.

    ::

        shared = LookAsideCache(["127.0.0.1:11211"])
        cache = NearCache(shared, "amqp://shop@rabbitmq.internal/", cluster="eu")
        product = cache.get_or_load("product:7", lambda: {"id": 7, "price": 109.99}, ttl=600)
        assert product["price"] == 109.99
    """

    @overload
    def get_or_load(
        self, key: str, load: Callable[[], Loaded[T]], *, ttl: float, negative_ttl: float | None = None
    ) -> T: ...
    @overload
    def get_or_load(self, key: str, load: Callable[[], T], *, ttl: float, negative_ttl: float | None = None) -> T: ...
    def get_or_load(self, key: str, load: Callable[[], Any], *, ttl: float, negative_ttl: float | None = None) -> Any:
        """Return the value of `key`: the copy here, or the shared layer's answer, which may call `load`.

        As `LookAsideCache.get_or_load`, but without `stale_for`: this process would keep the stale value.
        """
        if copy := self._copies.find(key):
            _count_hit()
            return copy.value
        reading = self._begin_read(key)
        watched = _Watched(load)
        try:
            value = self._shared.get_or_load(key, watched, ttl=ttl, negative_ttl=negative_ttl)
            if not watched.called:
                self._keep(reading, value, ttl, negative_ttl)
            return value
        finally:
            self._copies.leave(reading)


class AsyncNearCache(_Near[AsyncShared]):
    """A near cache for asyncio: FastAPI, aiohttp. It listens in a thread too, so any number of loops may read.

    ::

        async def load() -> dict[str, object]:
            return {"id": 7, "price": 109.99}

        shared = AsyncLookAsideCache(["127.0.0.1:11211"])
        cache = AsyncNearCache(shared, "amqp://shop@rabbitmq.internal/", cluster="eu")
        product = await cache.get_or_load("product:7", load, ttl=600)
        assert product["price"] == 109.99
    """

    @overload
    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[Loaded[T]]], *, ttl: float, negative_ttl: float | None = None
    ) -> T: ...
    @overload
    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[T]], *, ttl: float, negative_ttl: float | None = None
    ) -> T: ...
    async def get_or_load(
        self, key: str, load: Callable[[], Awaitable[Any]], *, ttl: float, negative_ttl: float | None = None
    ) -> Any:
        """Return the value of `key`, as `NearCache.get_or_load` does."""
        if copy := self._copies.find(key):
            _count_hit()
            return copy.value
        reading = self._begin_read(key)
        watched = _Watched(load)
        try:
            value = await self._shared.get_or_load(key, watched, ttl=ttl, negative_ttl=negative_ttl)
            if not watched.called:
                self._keep(reading, value, ttl, negative_ttl)
            return value
        finally:
            self._copies.leave(reading)


class _Watched(Generic[T]):
    """A ``load`` that records its calls."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self.called = False

    def __call__(self) -> T:
        self.called = True
        return self._load()

    def shared(self) -> None:
        """Record that another reader called its ``load``, whose value was shared."""
        self.called = True
