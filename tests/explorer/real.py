"""A real memcached beside the model, given the same commands over the readers' own connections: they must agree."""

from typing import Any, TypeVar

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.blocking_nodes import BlockingNode
from invalidator.app.cache.nodes.routing import Token
from invalidator.memcached.access import Access
from invalidator.settings import Address
from tests.explorer.model import Model
from tests.servers import Memcached

T = TypeVar("T")


class Both(Model):
    """A model that checks each of its answers against memcached."""

    __slots__ = ("_node", "_server", "_tokens")

    def __init__(self, server: Memcached) -> None:
        super().__init__()
        self._server = server
        self._node = self._new_node()
        #: The tokens of memcached's connections, by the model's token.
        self._tokens: dict[Any, list[Token]] = {}

    def get(self, key: str) -> Item | None:
        return _agreed(super().get(key), self._answer(Get(key)))

    def gets(self, key: str) -> Held | None:
        expected, found = super().gets(key), self._answer(Gets(key))
        if expected and isinstance(found, Held):
            self._tokens.setdefault(expected.token, []).append(found.token)
            _agreed(expected.item, found.item)
            return expected
        return _agreed(expected, found)

    def add(self, key: str, item: Item, expire: int) -> bool:
        return _agreed(super().add(key, item, expire), self._answer(Add(key, item, expire)))

    def cas(self, key: str, item: Item, expire: int, token: tuple[int, int]) -> bool | Failure:
        command = Cas(key, item, expire, self._tokens[token].pop())
        (found,) = command.token.node.answer([command])
        return _agreed(super().cas(key, item, expire, token), found)

    def set(self, key: str, item: Item, expire: int) -> None:
        super().set(key, item, expire)
        self._server.set(key, item.data, flags=item.flags, expire=expire)

    def delete(self, key: str) -> bool:
        return _agreed(super().delete(key), self._server.delete(key))

    def restart(self) -> None:
        super().restart()
        self._server.restart()
        self._node.close()
        self._node = self._new_node()  # the old one is in its cooldown

    def close(self) -> None:
        self._node.close()
        for tokens in self._tokens.values():
            for token in tokens:
                token.connection.close()

    def _answer(self, command: Get | Gets | Add) -> Any:
        (found,) = self._node.answer([command])
        return found

    def _new_node(self) -> BlockingNode:
        host, port = self._server.address.split(":")
        return BlockingNode("real", Address(host, int(port)), prefix="", timeout=10, access=Access())


def _agreed(expected: T, found: Any) -> T:
    assert expected == found, f"the model says {expected!r}, memcached {found!r}"
    return expected
