"""The nodes that may hold a key: every node, or its owners by today's ring and the previous one. Pure."""

from collections.abc import Collection, Sequence

from invalidator.errors import ConfigurationError
from invalidator.memcached.ring import Ring, owners, ring_of
from invalidator.memcached.wire import Chunk, chunks
from invalidator.settings import Settings, labelled


class Holders:
    """The nodes of a cluster, by label, and the keys that each may hold.

    Without ``rings`` every node may hold every key. ``prefix`` is what the applications' client puts before every key.

    Raises:
        ConfigurationError: there are no nodes, or a ring names a node without an address.
    """

    def __init__(
        self, labels: Collection[str], *, rings: Sequence[Ring] = (), prefix: bytes = b"", chunk_keys: int = 1000
    ) -> None:
        if not labels:
            raise ConfigurationError("a cluster has at least one memcached node: name it in ring.nodes")
        for label in {label for ring in rings for label in ring.labels}.difference(labels):
            raise ConfigurationError(f'the ring has a node "{label}" without an address: name it in ring.nodes')
        self.labels = tuple(labels)
        self._rings = tuple(rings)
        self._prefix = prefix
        self._chunk_keys = chunk_keys

    @classmethod
    def of(cls, settings: Settings) -> "Holders":
        memcached = settings.memcached
        return cls(
            settings.nodes(),
            rings=rings_of(settings),
            prefix=memcached.prefix.encode(),
            chunk_keys=memcached.chunk_keys,
        )

    def of_key(self, key: bytes) -> tuple[str, ...]:
        """Return the labels of the nodes on which the key is evicted."""
        return tuple(owners(self._rings, [key])) if self._rings else self.labels

    def plan(self, keys: Collection[bytes]) -> list[tuple[str, list[Chunk]]]:
        """Return the deletes of keys (distinct, logical) by node, without the nodes that hold none of them.

        Raises:
            PoisonError: one of them is not a valid memcached key.
        """
        if not keys:
            return []
        if self._rings:
            return [(label, self.chunks(part)) for label, part in owners(self._rings, keys).items()]
        # Encoded once: the nodes share the bytes.
        shared = self.chunks(keys)
        return [(label, shared) for label in self.labels]

    def chunks(self, keys: Collection[bytes]) -> list[Chunk]:
        """Return the deletes of keys for any one node. Raises as `plan`."""
        in_order = keys if isinstance(keys, list | tuple) else tuple(keys)
        return chunks(in_order, prefix=self._prefix, size=self._chunk_keys)


def rings_of(settings: Settings) -> list[Ring]:
    """Return today's ring and the previous one; none if every key is evicted on every node."""
    if settings.memcached.evict_on != "owner":
        return []
    today, previous = settings.ring, settings.ring.previous
    rings = [ring_of(today.kind, list(labelled(today.nodes)))]
    if previous:
        rings.append(ring_of(previous.kind, list(labelled(previous.nodes))))
    return rings
