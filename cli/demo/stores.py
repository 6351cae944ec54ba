"""What the shop's caches keep their copies in: memcached, or with ``--embedded`` a dictionary in its place."""

import threading
from collections.abc import Sequence
from typing import Any

from pymemcache.client.base import Client
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError

from invalidator.errors import UnreachableError

Address = tuple[str, int]

#: Seconds for a node to take a connection and to answer.
TIMEOUT = 5.0


class InProcessStore:
    """A dictionary that does what `Store` asks of memcached."""

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
    """A `Store` on a cluster of nodes, for any number of threads."""
    # default_noreply=False: a delete says whether the copy was there, and a set is done when it returns.
    return HashClient(nodes, use_pooling=True, default_noreply=False, connect_timeout=TIMEOUT, timeout=TIMEOUT)


class Nodes:
    """The nodes of one cluster looked at one by one, past the client that spreads keys over them."""

    def __init__(self, addresses: Sequence[Address]) -> None:
        self.addresses = addresses
        self._clients = [
            Client(address, default_noreply=False, connect_timeout=TIMEOUT, timeout=TIMEOUT) for address in addresses
        ]

    def check(self) -> None:
        """Raises `UnreachableError` if a node does not answer."""
        for (host, port), client in zip(self.addresses, self._clients, strict=True):
            try:
                client.version()
            except (OSError, MemcacheError) as error:
                raise UnreachableError(
                    f"memcached {host}:{port} does not answer ({error}): start it, or let ./dev demo start its own"
                ) from error

    def put(self, key: str, value: bytes) -> None:
        """A copy on every node, as clients leave them that moved keys about while a node was down."""
        for client in self._clients:
            client.set(key, value)

    def copies(self, key: str) -> int:
        return sum(client.get(key) is not None for client in self._clients)

    def evicted(self) -> int:
        """Deletes that found a copy, since the nodes started, as memcached itself counts them."""
        return sum(int(client.stats()[b"delete_hits"]) for client in self._clients)

    def close(self) -> None:
        for client in self._clients:
            client.close()
