"""Routing of commands to nodes, by the worker's own ring, without failover. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from invalidator.app.cache.commands import Cas, Failure
from invalidator.errors import ConfigurationError
from invalidator.events.quoting import quoted
from invalidator.events.rules import wrong_key
from invalidator.memcached.ring import Kind, ring_of
from invalidator.memcached.wire import LONGEST_KEY
from invalidator.runtime.logs import Log

N = TypeVar("N")

#: Keys whose route a process remembers.
ROUTES: Final = 10_000

log = Log(__name__)


class Token(NamedTuple):
    """The connection that answered `gets`, and the CAS number it returned."""

    node: Any
    connection: Any
    number: bytes


class Route(NamedTuple, Generic[N]):
    """The node that owns a key, and the key as it is sent, prefix included."""

    node: N
    key: bytes


class Placement(Generic[N]):
    """The nodes by label, and the ring that assigns each key to one of them.

    It accepts the keys that the worker's rules accept: a value that no rule could evict is never cached.
    """

    def __init__(self, nodes: Mapping[str, N], *, kind: Kind, prefix: str) -> None:
        if why := wrong_key(prefix or "-", LONGEST_KEY - 1):
            raise ConfigurationError(f"the key prefix {quoted(prefix)} {why}")
        self.nodes = nodes
        self._ring = ring_of(kind, list(nodes))
        self._key_bytes = LONGEST_KEY - len(prefix.encode())
        self._prefix = prefix.encode()
        #: Return the route of a key, or None if that key cannot be cached.
        self.route: Callable[[str], Route[N] | None] = lru_cache(ROUTES)(self._route)

    def _route(self, key: str) -> "Route[N] | None":
        if why := wrong_key(key, self._key_bytes):
            log.warning("not a valid memcached key; bypassing the cache", key=key, why=f"it {why}")
            return None
        name = key.encode()
        return Route(self.nodes[self._ring.owner(name)], self._prefix + name)


def by_node(routes: Iterable[Route[N] | None]) -> dict[N, list[bytes]]:
    """Return each node with its keys as they are sent. A key without a route is on none."""
    owned: dict[N, list[bytes]] = {}
    for route in routes:
        if route is not None:
            node, key = route
            if node in owned:
                owned[node].append(key)
            else:
                owned[node] = [key]
    return owned


def in_order(
    routes: Sequence[Route[N] | None], owned: Mapping[N, list[bytes]], answers: Iterable[Iterable[Any]]
) -> list[Any]:
    """Return the answer for each route, from those of the nodes. The source answers for a key without a route."""
    found: dict[bytes, Any] = {}
    for own, some in zip(owned.values(), answers, strict=True):
        found.update(zip(own, some, strict=True))
    return [Failure.DOWN if route is None else found[route.key] for route in routes]


def plan(commands: Sequence[Any], placement: Placement[N]) -> list[tuple[N, list[int]]]:
    """Return the exchanges that commands of one kind need: a node, and the indices of its commands.

    Commands on different held connections are different exchanges. A command whose key is invalid is in none.
    """
    exchanges: dict[int, tuple[N, list[int]]] = {}
    for index, command in enumerate(commands):
        if isinstance(command, Cas):
            node, where = command.token.node, id(command.token.connection)
        else:
            route = placement.route(command.key)
            node = route and route.node
            where = id(node)
        if node is not None:
            exchanges.setdefault(where, (node, []))[1].append(index)
    return list(exchanges.values())
