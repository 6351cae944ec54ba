"""The nodes of a cache in a test: one memcached in the process. Everything above the sockets is the product's own."""

from collections.abc import Sequence
from typing import Any

from invalidator.app.cache.commands import Add, Cas, Get, Gets, Held
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.async_nodes import AsyncNodes
from invalidator.app.cache.nodes.blocking_nodes import BlockingNodes
from invalidator.app.cache.nodes.routing import Placement, Token
from invalidator.testing.memcached import MemoryMemcached


class MemoryNodes(BlockingNodes):
    """The nodes of a `LookAsideCache`."""

    def __init__(self, memcached: MemoryMemcached) -> None:
        nodes: dict[str, Any] = {"memory": _BlockingNode(memcached)}
        self._placement = Placement(nodes, kind="rendezvous", prefix="")


class AsyncMemoryNodes(AsyncNodes):
    """The nodes of an `AsyncLookAsideCache`."""

    def __init__(self, memcached: MemoryMemcached) -> None:
        nodes: dict[str, Any] = {"memory": _AsyncNode(memcached)}
        self._placement = Placement(nodes, kind="rendezvous", prefix="")


class _Node:
    def __init__(self, memcached: MemoryMemcached) -> None:
        self._memcached = memcached

    def close(self) -> None: ...

    def _answer(self, command: Any) -> Any:
        match command:
            case Get(key):
                return self._memcached.get(key)
            case Gets(key):
                held = self._memcached.gets(key)
                return Held(held.item, Token(self, held.token, b"")) if held else None
            case Add(key, item, expire):
                return self._memcached.add(key, item, expire)
            case Cas(key, item, expire, token):
                return self._memcached.cas(key, item, expire, token.connection)
        return None  # LetGo


class _BlockingNode(_Node):
    def get(self, key: str) -> Item | None:
        return self._memcached.get(key)

    def answer(self, commands: Sequence[Any]) -> list[Any]:
        return [self._answer(command) for command in commands]


class _AsyncNode(_Node):
    async def answer(self, commands: Sequence[Any]) -> list[Any]:
        return [self._answer(command) for command in commands]
