"""memcached nodes for blocking readers, through pymemcache, with a connection to itself for each command or pair.

Rules of this file:

1. A `Client` here makes one connection in its life. pymemcache's own reconnects in silence, and a `cas` on another
   connection than its `gets` may meet a restarted memcached that uses the same CAS numbers again.
2. A connection on which anything failed is closed, because its late answer would be taken for the next one. An idle
   connection that has something to read has ended or is out of step, and is closed too.
3. No command is repeated. A node that did not answer counts as down, and the source is read.
4. A connection does not outlive a fork: two processes would read each other's answers.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError

from invalidator.app.cache.commands import Add, Cas, Command, Failure, Get, Gets, Held, LetGo
from invalidator.app.cache.items import Item
from invalidator.app.cache.routing import Cooldown, Placement, Token, plan
from invalidator.memcached.access import STORED, Access
from invalidator.memcached.ring import Kind

#: Idle connections kept for each node. Those that more threads opened at once are closed.
IDLE_CONNECTIONS = 32

T = TypeVar("T")


class _Items:
    """A serde for pymemcache that leaves items as they are."""

    def serialize(self, key: Any, item: Item) -> Item:
        return item

    def deserialize(self, key: Any, data: bytes, flags: int) -> Item:
        return Item(data, flags)


class OneConnection(Client):  # type: ignore[misc]  # pymemcache is untyped
    """A pymemcache client that lives as long as its one connection."""

    _was_connected = False
    #: The command that logs in, for a node that requires it.
    login = b""

    def _connect(self) -> None:
        if self._was_connected:
            raise ConnectionError("the connection has ended and is not reopened")
        self._was_connected = True
        super()._connect()
        if self.login:
            self.sock.sendall(self.login)
            if (answer := self.sock.recv(len(STORED))) != STORED:
                self.close()
                raise ConnectionError(f"memcached answered the login with {answer!r}")

    def is_fit(self) -> bool:
        """Return True if an idle connection is open and has nothing to read."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)


class BlockingNode:
    """One memcached node, for any number of threads."""

    def __init__(self, label: str, address: tuple[str, int], *, prefix: str, timeout: float, access: Access) -> None:
        self._address, self._prefix, self._timeout, self._access = address, prefix, timeout, access
        self._lock = threading.Lock()
        self._idle: list[OneConnection] = []
        self._pid = os.getpid()
        self._cooldown = Cooldown(label)

    def answer(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        match commands[0]:
            case Get():
                found = self.get([command.key for command in commands if isinstance(command, Get)])
                return [found] * len(commands) if isinstance(found, Failure) else list(found)
            case Add() as add:
                return [self.add(add)]
            case Gets(key):
                return [self.gets(key)]
            case Cas(token=Token(_, client, number)) as cas:
                return [self.cas(client, number, cas)]
            case LetGo(Token(_, client)):
                self.hand_back(client)
                return [None]
        raise TypeError(f"{commands[0]!r} is no command for memcached")

    def get(self, keys: Sequence[str]) -> list[Item | None] | Failure:
        _, found = self._ask(lambda client: client.get_many(keys))
        return found if isinstance(found, Failure) else [found.get(key) for key in keys]

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
        if self._cooldown.is_on(time.monotonic()):
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
            self._cooldown.begin(time.monotonic(), error)
            return Failure.DOWN
        except BaseException:
            client.close()
            raise
        self._cooldown.end()
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
            tls_context=self._access.tls() if self._access.tls else None,
        )
        client.login = self._access.login
        return client


class BlockingNodes:
    """All nodes, with each key on its owner."""

    def __init__(
        self, addresses: Mapping[str, tuple[str, int]], *, ring: Kind, prefix: str, timeout: float, access: Access
    ) -> None:
        nodes = {
            label: BlockingNode(label, address, prefix=prefix, timeout=timeout, access=access)
            for label, address in addresses.items()
        }
        self._placement = Placement(nodes, kind=ring, prefix=prefix)

    def get(self, key: str) -> Item | Failure | None:
        node = self._placement.owner(key)
        found = node.get([key]) if node else Failure.DOWN
        return found if isinstance(found, Failure) else found[0]

    def answer(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        answers: list[Any] = [Failure.DOWN] * len(commands)
        for node, own in plan(commands, self._placement):
            for index, answer in zip(own, node.answer([commands[index] for index in own]), strict=True):
                answers[index] = answer
        return answers

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
