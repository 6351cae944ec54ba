"""The nodes of a cache in a test: one memcached in the process. Everything above the sockets is the product's own."""

from collections.abc import Sequence
from typing import Any

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, LetGo
from invalidator.app.cache.nodes.async_nodes import AsyncNodes
from invalidator.app.cache.nodes.blocking_nodes import BlockingNodes
from invalidator.app.cache.nodes.routing import Placement, Token
from invalidator.testing.memcached import MemoryMemcached


class MemoryNodes(BlockingNodes):
    """The nodes of a `LookAsideCache`."""

    def __init__(self, memcached: MemoryMemcached) -> None:
        self._node = _Node(memcached)

    def apart(self) -> "MemoryNodes":
        return self

    def get(self, key: str) -> Any:
        return self._node.answer(Get(key))

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        return [self._node.answer(Get(key)) for key in keys]

    def answer(self, commands: Sequence[Any]) -> list[Any]:
        return [self._node.answer(command) for command in commands]

    def close(self) -> None: ...


class AsyncMemoryNodes(AsyncNodes):
    """The nodes of an `AsyncLookAsideCache`."""

    def __init__(self, memcached: MemoryMemcached) -> None:
        self._node = _Node(memcached)

    async def get(self, key: str) -> Any:
        return self._node.answer(Get(key))

    async def get_many(self, keys: Sequence[str]) -> list[Any]:
        return [self._node.answer(Get(key)) for key in keys]

    async def answer(self, commands: Sequence[Any]) -> list[Any]:
        return [self._node.answer(command) for command in commands]

    def close(self) -> None: ...


class _Node:
    def __init__(self, memcached: MemoryMemcached) -> None:
        self._memcached = memcached
        self._route = Placement({"memory": memcached}, kind="rendezvous", prefix="").route

    def answer(self, command: Any) -> Any:
        if not isinstance(command, Cas | LetGo) and self._route(command.key) is None:
            return Failure.DOWN
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
