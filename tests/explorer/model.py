"""The memcached that applications test against, as a state that the explorer can copy and compare."""

from invalidator.testing.memcached import MemoryMemcached


class Model(MemoryMemcached):
    """One node."""

    __slots__ = ()

    def copy(self) -> "Model":
        other = Model.__new__(Model)
        other._items, other._last, other.life = self._items.copy(), self._last, self.life
        return other

    def state(self) -> tuple[object, ...]:
        return *self._items.items(), self._last, self.life
