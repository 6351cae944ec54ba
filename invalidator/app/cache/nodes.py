"""memcached nodes as a reader uses them, through pymemcache: one exclusive connection a command, or a pair of them.

Rules of this file:

1. A `Client` here makes one connection in its life. pymemcache's own connects again in silence, and a `cas` after a
   `gets` on another connection may meet a memcached that has begun again, with the same CAS numbers.
2. A connection on which anything failed is closed: its late answer would be taken for the next one. An idle one that
   has something to read has ended or is out of step, and is closed too.
3. No command is repeated: what did not answer counts as down, and the source is read.
4. A connection does not outlive a fork: two processes would read each other's answers.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, LetGo
from invalidator.app.cache.items import Item
from invalidator.app.cache.routing import OPEN, Entry, Placement, Rest
from invalidator.memcached.access import STORED
from invalidator.memcached.ring import Kind

#: Idle connections kept to a node; what more threads opened at once is closed.
IDLE_CONNECTIONS = 32

T = TypeVar("T")


class _Items:
    """pymemcache's serde for items as they are."""

    def serialize(self, key: Any, item: Item) -> Item:
        return item

    def deserialize(self, key: Any, data: bytes, flags: int) -> Item:
        return Item(data, flags)


class OneConnection(Client):  # type: ignore[misc]  # pymemcache is untyped
    """pymemcache's client for the life of one connection."""

    _was_connected = False
    #: The command that logs in, where the node asks for that.
    login = b""

    def _connect(self) -> None:
        if self._was_connected:
            raise ConnectionError("the connection has ended, and is not made again")
        self._was_connected = True
        super()._connect()
        if self.login:
            self.sock.sendall(self.login)
            if (answer := self.sock.recv(len(STORED))) != STORED:
                self.close()
                raise ConnectionError(f"memcached answers user and password with {answer!r}")

    def is_fit(self) -> bool:
        """Whether it is open with nothing to read; for an idle one."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class Node:
    """One memcached node, for any number of threads."""

    def __init__(
        self, label: str, address: tuple[str, int], *, prefix: str, timeout: float, entry: Entry = OPEN
    ) -> None:
        self._address, self._prefix, self._timeout, self._entry = address, prefix, timeout, entry
        self._lock = threading.Lock()
        self._idle: list[OneConnection] = []
        self._pid = os.getpid()
        self._rest = Rest(label)

    def get(self, keys: Sequence[str]) -> dict[str, Item] | Failure:
        _, found = self._ask(lambda client: client.get_many(keys))
        return found

    def add(self, command: Add) -> bool | Failure:
        _, added = self._ask(lambda client: client.add(command.key, command.item, expire=command.expire))
        return added

    def gets(self, key: str) -> Held | Failure | None:
        client, found = self._ask(lambda client: client.gets(key), keep=True)
        if isinstance(found, Failure):
            return found
        item, number = found
        if number is None:
            self.hand_back(client)
            return None
        return Held(item, Token(self, client, number))

    def cas(self, client: OneConnection, number: bytes, command: Cas) -> bool | Failure:
        stored = self._try(client, lambda: bool(client.cas(command.key, command.item, number, expire=command.expire)))
        self.hand_back(client)
        return stored

    def hand_back(self, client: OneConnection) -> None:
        with self._lock:
            if client.sock and len(self._idle) < IDLE_CONNECTIONS:
                self._idle.append(client)
                return
        client.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _ask(self, command: Callable[[OneConnection], T], *, keep: bool = False) -> tuple[Any, T | Failure]:
        if self._rest.is_on(time.monotonic()):
            return None, Failure.DOWN
        client = self._take()
        answer = self._try(client, lambda: command(client))
        if not keep or isinstance(answer, Failure):
            self.hand_back(client)
        return client, answer

    def _try(self, client: OneConnection, command: Callable[[], T]) -> T | Failure:
        try:
            answer = command()
        except (OSError, MemcacheError) as error:
            if isinstance(error, MemcacheServerError) and not isinstance(error, MemcacheUnexpectedCloseError):
                return Failure.REFUSED
            self._rest.begin(time.monotonic(), error)
            return Failure.DOWN
        except BaseException:
            client.close()
            raise
        self._rest.end()
        return answer

    def _take(self) -> OneConnection:
        if self._pid != os.getpid():
            self._pid, self._idle = os.getpid(), []
        while True:
            with self._lock:
                client = self._idle.pop() if self._idle else None
            if client is None:
                return self._new_client()
            if client.is_fit():
                return client
            client.close()

    def _new_client(self) -> OneConnection:
        client = OneConnection(
            self._address,
            serde=_Items(),
            connect_timeout=self._timeout,
            timeout=self._timeout,
            no_delay=True,
            key_prefix=self._prefix,
            default_noreply=False,
            tls_context=self._entry.tls,
        )
        client.login = self._entry.login
        return client


class Token(NamedTuple):
    """The connection that answered `gets`, and the CAS number that it said."""

    node: Node
    client: OneConnection
    number: bytes


class Nodes:
    """All nodes, each key on its owner."""

    def __init__(
        self, addresses: Mapping[str, tuple[str, int]], *, ring: Kind, prefix: str, timeout: float, entry: Entry
    ) -> None:
        nodes = {
            label: Node(label, address, prefix=prefix, timeout=timeout, entry=entry)
            for label, address in addresses.items()
        }
        self._placement = Placement(nodes, kind=ring, prefix=prefix)

    def answer(self, commands: Sequence[Any]) -> Sequence[Any]:
        """Do what a reader asks of memcached, commands of one kind, and answer in the same order."""
        match commands[0]:
            case Get():
                return self._get([command.key for command in commands])
            case Add(key) as add:
                return [self._placement.owner(key).add(add)]
            case Gets(key):
                return [self._placement.owner(key).gets(key)]
            case Cas(token=Token(node, client, number)) as cas:
                return [node.cas(client, number, cas)]
            case LetGo(Token(node, client)):
                node.hand_back(client)
                return [None]
        raise TypeError(f"{commands[0]!r} is nothing that memcached is asked for")

    def _get(self, keys: Sequence[str]) -> list[Item | Failure | None]:
        """One command a node."""
        found: dict[str, Item | Failure | None] = dict.fromkeys(keys, Failure.DOWN)
        for node, own in self._placement.by_node(keys):
            items = node.get(own)
            if not isinstance(items, Failure):
                found |= dict.fromkeys(own) | items
        return [found[key] for key in keys]

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
