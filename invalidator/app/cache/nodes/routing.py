"""Routing of commands to nodes, by the worker's own ring, without failover. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from invalidator.app.cache.commands import Cas, LetGo
from invalidator.errors import ConfigurationError
from invalidator.events.quoting import quoted
from invalidator.events.rules import wrong_key
from invalidator.memcached.ring import Kind, ring_of
from invalidator.memcached.wire import LONGEST_KEY
from invalidator.runtime.logs import Log

N = TypeVar("N")

#: Keys whose node a process remembers.
OWNERS: Final = 10_000

log = Log(__name__)


class Token(NamedTuple):
    """The connection that answered `gets`, and the CAS number it returned."""

    node: Any
    connection: Any
    number: bytes


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
        #: Return the node of a key, or None if that key cannot be cached.
        self.owner: Callable[[str], N | None] = lru_cache(OWNERS)(self._owner)

    def _owner(self, key: str) -> N | None:
        if why := wrong_key(key, self._key_bytes):
            log.warning("not a valid memcached key; bypassing the cache", key=key, why=f"it {why}")
            return None
        return self.nodes[self._ring.owner(key.encode())]


def by_node(keys: Iterable[str], placement: Placement[N]) -> dict[N, list[str]]:
    """Return each node with its keys. An invalid key is on none."""
    owned: dict[N, list[str]] = {}
    for key in keys:
        if (node := placement.owner(key)) is not None:
            owned.setdefault(node, []).append(key)
    return owned


def plan(commands: Sequence[Any], placement: Placement[N]) -> list[tuple[N, list[int]]]:
    """Return the exchanges that commands of one kind need: a node, and the indices of its commands.

    Commands on different held connections are different exchanges. A command whose key is invalid is in none.
    """
    exchanges: dict[int, tuple[N, list[int]]] = {}
    for index, command in enumerate(commands):
        if isinstance(command, Cas | LetGo):
            node, where = command.token.node, id(command.token.connection)
        else:
            node = placement.owner(command.key)
            where = id(node)
        if node is not None:
            exchanges.setdefault(where, (node, []))[1].append(index)
    return list(exchanges.values())
