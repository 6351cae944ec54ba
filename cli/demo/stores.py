"""The stores for the shop's caches: memcached, or with ``--embedded`` a dictionary in its place."""

import threading
from collections.abc import Sequence
from typing import Any

from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError

from invalidator.errors import UnreachableError

Address = tuple[str, int]

#: Seconds for a node to accept a connection, and to answer.
TIMEOUT = 5.0


class InProcessStore:
    """A `Store` in a dictionary."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        with self._lock:
            return self._copies.get(key)

    def set(self, key: str, value: bytes) -> bool:
        with self._lock:
            self._copies[key] = value
        return True

    def delete(self, key: str) -> bool:
        with self._lock:
            return self._copies.pop(key, None) is not None


def memcached_store(nodes: Sequence[Address]) -> Any:
    """Return a `Store` on a cluster of nodes, for any number of threads."""
    # default_noreply=False: a delete returns whether the copy existed, and a set is done when it returns.
    return HashClient(nodes, use_pooling=True, default_noreply=False, connect_timeout=TIMEOUT, timeout=TIMEOUT)


class Nodes:
    """The nodes of one cluster, inspected one by one, past the client that spreads keys over them."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = addresses
        self._clients = [
            Client(address, default_noreply=False, connect_timeout=TIMEOUT, timeout=TIMEOUT) for address in addresses
        ]

    def check(self) -> None:
        """Raise `UnreachableError` if a node does not answer."""
        for (host, port), client in zip(self.addresses, self._clients, strict=True):
            try:
                client.version()
            except (OSError, MemcacheError) as error:
                raise UnreachableError(
                    f"memcached {host}:{port} does not answer ({error}): start it, or let ./dev demo start its own"
                ) from error

    def put(self, key: str, value: bytes) -> None:
        """Put a copy on every node, as clients do that move keys while a node is down."""
        for client in self._clients:
            client.set(key, value)

    def copies(self, key: str) -> int:
        return sum(client.get(key) is not None for client in self._clients)

    def evicted(self) -> int:
        """Return the number of deletes that found a copy since the nodes started, as memcached counts them."""
        return sum(int(client.stats()[b"delete_hits"]) for client in self._clients)

    def close(self) -> None:
        for client in self._clients:
            client.close()
