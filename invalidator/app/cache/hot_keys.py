"""Counts of the keys that were read most."""

import threading

from invalidator.app.cache.fork import begin_anew_after_fork


class Reads:
    """Recent reads by key, counted for at most `limit` keys.

    When there are more keys, all counts are halved and those that reach zero are dropped, so hot keys stay.

    >>> reads = Reads()
    >>> cache = LookAsideCache(["127.0.0.1:11211"], on_read=reads.count)
    >>> reads.count("product:1"); reads.count("product:1")
    >>> reads.of("product:1"), reads.of("product:2")
    (2, 0)
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}
        self.begin_in_child()
        begin_anew_after_fork(self)

    def begin_in_child(self) -> None:
        self._lock = threading.Lock()

    def count(self, key: str) -> None:
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            while len(self._counts) > self._limit:
                self._counts = {key: count // 2 for key, count in self._counts.items() if count > 1}

    def of(self, key: str) -> int:
        with self._lock:
            return self._counts.get(key, 0)
