"""Which node a key is read from (the worker's own ring, no failover), and when it is left alone. Pure."""

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

import structlog

from invalidator.memcached.ring import Kind, ring_of
from invalidator.memcached.wire import LONGEST_KEY

N = TypeVar("N")

#: Seconds for which a node that did not answer is left alone; then one reader tries it.
REST_SECONDS: Final = 1.0

_KEY: Final = re.compile(r"[\x21-\x7e]+")

log = structlog.get_logger()


class Entry(NamedTuple):
    """What it takes to be let in by a node."""

    tls: ssl.SSLContext | None = None
    #: The command that logs in.
    login: bytes = b""


OPEN: Final = Entry()


class Placement(Generic[N]):
    """Nodes by label, each key on the one that owns it."""

    def __init__(self, nodes: Mapping[str, N], *, kind: Kind, prefix: str) -> None:
        self.nodes = nodes
        self._ring = ring_of(kind, list(nodes))
        self._longest = LONGEST_KEY - len(prefix)

    def owner(self, key: str) -> N:
        return self.nodes[self._ring.owner(key.encode())]

    def by_node(self, keys: Iterable[str]) -> list[tuple[N, list[str]]]:
        """Each node with its keys. What can be no key has no node: it is read from the source."""
        by_label: dict[str, list[str]] = {}
        for key in keys:
            if len(key) > self._longest or not _KEY.fullmatch(key):
                log.warning("no memcached key: it is read from the source", key=key, longest=self._longest)
            else:
                by_label.setdefault(self._ring.owner(key.encode()), []).append(key)
        return [(self.nodes[label], own) for label, own in by_label.items()]


class Rest:
    """Whether a node is left alone, having failed; by whose clock is the caller's matter."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._until: float | None = None

    def is_on(self, now: float) -> bool:
        """Whether to leave the node alone now. When the rest is over one caller tries, and the others wait for that."""
        if self._until is None:
            return False
        if now < self._until:
            return True
        self._until = now + REST_SECONDS
        return False

    def begin(self, now: float, error: Exception) -> None:
        if self._until is None:
            log.warning("memcached does not answer: reads go to the source", node=self._label, error=repr(error))
        self._until = now + REST_SECONDS

    def end(self) -> None:
        if self._until is not None:
            log.info("memcached answers again", node=self._label)
            self._until = None
