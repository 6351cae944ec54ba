"""A whole cluster in the process of a test: publishers, the rules, and a memcached for the caches."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from invalidator.app.cache.async_lookaside import AsyncLookAsideCache
from invalidator.app.cache.lookaside import LookAsideCache
from invalidator.assemble import rules_of
from invalidator.broker.messages import Receipt
from invalidator.errors import PoisonError
from invalidator.events.event import Event
from invalidator.events.rules import Rules
from invalidator.settings import Settings
from invalidator.testing.memcached import MemoryMemcached
from invalidator.testing.nodes import AsyncMemoryNodes, MemoryNodes
from invalidator.testing.publisher import AsyncRecordingPublisher, RecordingPublisher

Cache = TypeVar("Cache", bound=LookAsideCache | AsyncLookAsideCache)

#: The path of an ``invalidator.toml``, or its rules: ``[{"on": "product_updated", "evict": ["product:{id}"]}]``.
RulesSource: TypeAlias = Path | str | Sequence[Mapping[str, Any]]


class MemoryCluster:
    """Publishers that evict what the rules say from a memcached in the process, before `publish` returns.

    ::

        cluster = MemoryCluster([{"on": "product_updated", "evict": ["product:{id}"]}])
        cache = cluster.serve(LookAsideCache(["cache-1:11211"]))
        cache.get_or_load("product:17", lambda: 119.99, ttl=3600)
        cluster.publisher.publish("product_updated", {"id": 17})
        assert ["product:17"] == cluster.evicted
    """

    def __init__(self, rules: RulesSource = ()) -> None:
        self._rules = _compiled(rules)
        self.memcached = MemoryMemcached()
        self.publisher = RecordingPublisher(self._receive)
        self.async_publisher = AsyncRecordingPublisher(self.publisher)
        #: The keys that events evicted, in order.
        self.evicted: list[str] = []
        #: The events that a worker would have stored as dead letters, with the reason.
        self.dead: list[tuple[Event, PoisonError]] = []

    @property
    def events(self) -> list[Event]:
        """The events that were published, in order."""
        return self.publisher.events

    def serve(self, cache: Cache) -> Cache:
        """Make a cache read and fill this cluster's memcached, whatever its nodes are, and return it."""
        if isinstance(cache, LookAsideCache):
            cache.nodes = MemoryNodes(self.memcached)
        else:
            cache.nodes = AsyncMemoryNodes(self.memcached)
        return cache

    def _receive(self, event: Event) -> Receipt:
        receipt = partial(Receipt, "memory", "memory", 0.0)
        try:
            keys = [key.decode() for key in self._rules.keys(event)]
        except PoisonError as error:
            self.dead.append((event, error))
            return receipt(dead=error.reason)
        self.evicted += keys
        for key in keys:
            self.memcached.delete(key)
        return receipt(evicted=len(keys))


def _compiled(rules: RulesSource) -> Rules:
    tables = tomllib.loads(Path(rules).read_text()) if isinstance(rules, str | Path) else {"rule": list(rules)}
    # The rest of a file is about servers, and may name secrets that are not here.
    return rules_of(msgspec.convert({"rule": tables.get("rule", []), "limits": tables.get("limits", {})}, Settings))
