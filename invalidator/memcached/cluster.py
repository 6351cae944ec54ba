"""The nodes of a cluster: keys in, evicted or unreachable by node out.

keys ──> every node, or each key's owner by today's ring and the previous one ──> all nodes at once ──> Outcome
"""

import asyncio
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from invalidator.memcached.access import Access
from invalidator.memcached.breaker import Backoff, State
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.memcached.holders import Holders, rings_of
from invalidator.memcached.node import Node, OnChange
from invalidator.memcached.ring import Ring
from invalidator.memcached.wire import flush
from invalidator.settings import Address, MemcachedSettings, Settings


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
        self._holders = Holders(nodes, rings=rings, prefix=prefix, chunk_keys=chunk_keys)
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

    @classmethod
    def of(
        cls,
        settings: Settings,
        *,
        read: Callable[[], MemcachedSettings] | None = None,
        on_change: OnChange | None = None,
    ) -> "Cluster":
        """Return the cluster of the settings' nodes, not connected yet.

        ``read`` is called before every connection, so that a changed password is read again.
        """
        memcached = settings.memcached
        read = read or (lambda: memcached)
        return cls(
            settings.nodes(),
            rings=rings_of(settings),
            prefix=memcached.prefix.encode(),
            access=lambda: Access.of(read()),
            deadline=memcached.deadline,
            chunk_keys=memcached.chunk_keys,
            chunks_in_flight=memcached.chunks_in_flight,
            on_change=on_change,
        )

    def evict(self, keys: Collection[bytes]) -> Evicting:
        """Send deletes of the keys (distinct, logical) to the nodes that may hold them; await the result for the rest.

        A node's failure is an outcome, not an error.

        Raises:
            PoisonError: one of them is not a valid memcached key; nothing was sent to any node.
        """
        return Evicting([(label, self._nodes[label].submit(part)) for label, part in self._holders.plan(keys)])

    async def evict_on(self, label: str, keys: Collection[bytes]) -> Answer:
        """Delete the keys on one node, whatever the rings say: the keys of its debts. Raises as `evict`."""
        return await self._nodes[label].evict(self._holders.chunks(keys))

    async def flush(self, label: str) -> Answer:
        """Delete everything on one node. Its confirmation counts no keys."""
        return await self._nodes[label].evict([flush()])

    def placement(self, key: bytes) -> tuple[str, ...]:
        """Return the labels of the nodes on which the key is evicted."""
        return self._holders.of_key(key)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._holders.labels

    def states(self) -> dict[str, State]:
        """Return the state of each node by label."""
        return {label: node.state for label, node in self._nodes.items()}

    def connected(self) -> dict[str, str]:
        """Return the IP address that each connected node has now, by label."""
        return {label: node.peer for label, node in self._nodes.items() if node.peer}

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self._nodes.values()))
