"""What a process keeps of keys, never more than so many of them."""

import threading
from collections.abc import Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Bounded(Generic[K, T]):
    """The last `size` entries that were put or asked for, for any number of threads."""

    def __init__(self, size: int) -> None:
        self._lock = threading.Lock()
        self._entries: LRUCache[K, T] = LRUCache(size)

    def get(self, key: K) -> T | None:
        with self._lock:
            return self._entries.get(key)

    def put(self, key: K, entry: T) -> None:
        with self._lock:
            self._entries[key] = entry


class Reads:
    """How often keys were read lately, counted for at most `limit` of them.

    Where that is too few, all counts are halved and those that fell to nothing are forgotten: what is hot stays.

    >>> reads = Reads()
    >>> cache = LookAsideCache(["127.0.0.1:11211"], on_read=reads.count)
    >>> reads.count("product:1"); reads.count("product:1")
    >>> reads.of("product:1"), reads.of("product:2")
    (2, 0)
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._counts: dict[str, int] = {}

    def count(self, key: str) -> None:
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            while len(self._counts) > self._limit:
                self._counts = {key: count // 2 for key, count in self._counts.items() if count > 1}

    def of(self, key: str) -> int:
        with self._lock:
            return self._counts.get(key, 0)
