"""The nodes of a cluster: keys in, evicted or unreachable by node out.

keys ──> every node, or each key's owner by today's ring and the previous one ──> all nodes at once ──> Outcome
"""

import asyncio
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from invalidator.errors import ConfigurationError
from invalidator.memcached.access import Access
from invalidator.memcached.breaker import Backoff, State
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.memcached.node import Node, OnChange
from invalidator.memcached.ring import Ring, owners
from invalidator.memcached.wire import Chunk, chunks, flush
from invalidator.settings import Address


@dataclass(frozen=True)
class Outcome:
    """The result of a batch, by label. A node that confirmed a part of the batch is in both."""

    #: Number of keys that the node confirmed.
    evicted: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, Unreachable] = field(default_factory=dict)


class Evicting:
    """Deletes that were sent to the nodes; awaiting it returns their `Outcome`."""

    def __init__(self, answers: "Sequence[tuple[str, asyncio.Future[Answer]]]") -> None:
        self._answers = answers

    def __await__(self) -> Generator[Any, None, Outcome]:
        outcome = Outcome()
        # The nodes are at work already, so awaiting one future after the other is concurrent all the same.
        for label, future in self._answers:
            answer = yield from future
            if isinstance(answer, Evicted):
                outcome.evicted[label] = answer.keys
                continue
            outcome.unreachable[label] = answer
            if answer.evicted:
                outcome.evicted[label] = answer.evicted
        return outcome


class Cluster:
    """All nodes that may hold a key of this cluster.

    ``nodes`` are addresses by label, those of the previous ring included. Without ``rings`` every key is
    evicted on every node; with them (today's, and during a change the previous one) on its owners only. The
    applications' client puts ``prefix`` before every key. ``access`` is called before every connection,
    for the TLS and the login that every node requires.

    Raises:
        ConfigurationError: there are no nodes, or a ring names a node without an address.
    """

    def __init__(  # noqa: PLR0913  each is a setting of its own
        self,
        nodes: Mapping[str, Address],
        *,
        rings: Sequence[Ring] = (),
        prefix: bytes = b"",
        access: Callable[[], Access] = Access,
        deadline: float = 1.0,
        chunk_keys: int = 1000,
        chunks_in_flight: int = 4,
        backoff: Backoff | None = None,
        on_change: OnChange | None = None,
    ) -> None:
        if not nodes:
            raise ConfigurationError("a cluster has at least one memcached node: name it in ring.nodes")
        for label in {label for ring in rings for label in ring.labels} - nodes.keys():
            raise ConfigurationError(f'the ring has a node "{label}" without an address: name it in ring.nodes')
        self._rings = tuple(rings)
        self._prefix = prefix
        self._chunk_keys = chunk_keys
        self._nodes = {
            label: Node(
                label,
                address,
                access=access,
                deadline=deadline,
                chunks_in_flight=chunks_in_flight,
                backoff=backoff,
                on_change=on_change,
            )
            for label, address in nodes.items()
        }

    def evict(self, keys: Collection[bytes]) -> Evicting:
        """Send deletes of the keys (distinct, logical) to the nodes that may hold them; await the result for the rest.

        A node's failure is an outcome, not an error.

        Raises:
            PoisonError: one of them is not a valid memcached key; nothing was sent to any node.
        """
        return Evicting([(label, self._nodes[label].submit(part)) for label, part in self._plan(keys)])

    async def evict_on(self, label: str, keys: Collection[bytes]) -> Answer:
        """Delete the keys on one node, whatever the rings say: the keys of its debts. Raises as `evict`."""
        return await self._nodes[label].evict(self._chunks(keys))

    async def flush(self, label: str) -> Answer:
        """Delete everything on one node. Its confirmation counts no keys."""
        return await self._nodes[label].evict([flush()])

    def placement(self, key: bytes) -> tuple[str, ...]:
        """Return the labels of the nodes on which the key is evicted."""
        return tuple(owners(self._rings, [key])) if self._rings else tuple(self._nodes)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self._nodes)

    def states(self) -> dict[str, State]:
        """Return the state of each node by label."""
        return {label: node.state for label, node in self._nodes.items()}

    def connected(self) -> dict[str, str]:
        """Return the IP address that each connected node has now, by label."""
        return {label: node.peer for label, node in self._nodes.items() if node.peer}

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def _plan(self, keys: Collection[bytes]) -> list[tuple[str, list[Chunk]]]:
        if not keys:
            return []
        if self._rings:
            return [(label, self._chunks(part)) for label, part in owners(self._rings, keys).items()]
        # Encoded once: the nodes share the bytes.
        shared = self._chunks(keys)
        return [(label, shared) for label in self._nodes]

    def _chunks(self, keys: Collection[bytes]) -> list[Chunk]:
        in_order = keys if isinstance(keys, list | tuple) else tuple(keys)
        return chunks(in_order, prefix=self._prefix, size=self._chunk_keys)
