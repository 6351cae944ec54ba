"""Routing of commands to nodes: the worker's own ring, without failover, and a cooldown for failed nodes. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from invalidator.app.cache.commands import Cas, LetGo
from invalidator.memcached.ring import Kind, ring_of
from invalidator.memcached.wire import LONGEST_KEY
from invalidator.runtime.logs import Log

N = TypeVar("N")

#: Seconds for which a node that did not answer is skipped; then one reader tries it.
COOLDOWN_SECONDS: Final = 1.0

_KEY: Final = re.compile(r"[\x21-\x7e]+")

log = Log(__name__)


class Token(NamedTuple):
    """The connection that answered `gets`, and the CAS number it returned."""

    node: Any
    connection: Any
    number: bytes


class Placement(Generic[N]):
    """The nodes by label, and the ring that assigns each key to one of them."""

    def __init__(self, nodes: Mapping[str, N], *, kind: Kind, prefix: str) -> None:
        self.nodes = nodes
        self._ring = ring_of(kind, list(nodes))
        self._longest = LONGEST_KEY - len(prefix)

    def owner(self, key: str) -> N | None:
        """Return the node of `key`, or None if memcached cannot store that key."""
        if len(key) > self._longest or not _KEY.fullmatch(key):
            log.warning("not a valid memcached key; bypassing the cache", key=key, longest=self._longest)
            return None
        return self.nodes[self._ring.owner(key.encode())]


def plan(commands: Sequence[Any], placement: Placement[N]) -> list[tuple[N, list[int]]]:
    """Return each node with the indices of its commands. A command whose key is invalid has no node."""
    by_node: dict[int, tuple[N, list[int]]] = {}
    for index, command in enumerate(commands):
        bound = isinstance(command, Cas | LetGo)
        node = command.token.node if bound else placement.owner(command.key)
        if node is not None:
            by_node.setdefault(id(node), (node, []))[1].append(index)
    return list(by_node.values())


class Cooldown:
    """The time for which a failed node is skipped. The caller supplies the clock."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._until: float | None = None

    def is_on(self, now: float) -> bool:
        """Return True if the node is to be skipped now.

        Once the time is over, one caller is let through, and the others wait for its result.
        """
        if self._until is None:
            return False
        if now < self._until:
            return True
        self._until = now + COOLDOWN_SECONDS
        return False

    def begin(self, now: float, error: Exception) -> None:
        if self._until is None:
            log.warning("memcached does not answer: reads go to the source", node=self._label, error=repr(error))
        self._until = now + COOLDOWN_SECONDS

    def end(self) -> None:
        if self._until is not None:
            log.info("memcached answers again", node=self._label)
            self._until = None
