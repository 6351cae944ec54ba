"""A memcached in the process, for any number of threads: items, CAS numbers, and a restart that resets both.

It answers as the real one does: the tests of this package give both the same commands and compare the answers.

Time is left out: an item stays until it is deleted. To test what happens once it has expired, delete it.
"""

import threading

from invalidator.app.cache.commands import Failure, Held
from invalidator.app.cache.items import Item

#: Bytes of a value from which on memcached refuses it, with its default ``-I 1m``.
LARGEST = 1 << 20

#: Held by commands that check and then change.
_atomic = threading.Lock()


class MemoryMemcached:
    """One node. A token is (life, CAS number): the number is valid on connections to that life of the node."""

    __slots__ = ("_items", "_last", "life")

    def __init__(self) -> None:
        self._items: dict[str, tuple[Item, int]] = {}
        self._last = 0
        self.life = 0

    def get(self, key: str) -> Item | None:
        found = self._items.get(key)
        return found[0] if found else None

    def gets(self, key: str) -> Held | None:
        found = self._items.get(key)
        return Held(found[0], (self.life, found[1])) if found else None

    def set(self, key: str, item: Item, expire: int) -> None:
        self._store(key, item, expire)

    def add(self, key: str, item: Item, expire: int) -> bool:
        with _atomic:
            if key in self._items:
                return False
            self._store(key, item, expire)
            return True

    def cas(self, key: str, item: Item, expire: int, token: tuple[int, int]) -> bool | Failure:
        life, number = token
        if life != self.life:
            return Failure.DOWN
        if len(item.data) >= LARGEST:
            return Failure.REFUSED
        with _atomic:
            found = self._items.get(key)
            if not found or found[1] != number:
                return False
            self._store(key, item, expire)
            return True

    def delete(self, key: str) -> bool:
        with _atomic:
            return self._items.pop(key, None) is not None

    def restart(self) -> None:
        """Drop all items, end all connections, and start the CAS numbers again."""
        self._items = {}
        self._last = 0
        self.life += 1

    def _store(self, key: str, item: Item, expire: int) -> None:
        self._last += 1
        if expire < 0:
            self._items.pop(key, None)
        else:
            self._items[key] = item, self._last
