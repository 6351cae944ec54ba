"""memcached nodes as a reader on an event loop uses them: `invalidator.app.cache.nodes`, in asyncio's words.

pymemcache blocks, so the few commands of the protocol are written here. The rules are the same: an exclusive connection
for a command, or a pair of them; whatever fails ends its connection; no command is repeated. A connection does not
outlive its event loop, nor a fork.

Source: memcached's doc/protocol.txt, "Storage commands" and "Retrieval command".
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from invalidator.app.cache.commands import Add, Cas, Failure, Get, Gets, Held, LetGo
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes import IDLE_CONNECTIONS
from invalidator.app.cache.routing import OPEN, Entry, Placement, Rest
from invalidator.memcached.access import STORED
from invalidator.memcached.ring import Kind

T = TypeVar("T")


class RefusedError(Exception):
    """Raised when memcached answers a command with an error; the message is its own."""


class Found(NamedTuple):
    item: Item
    #: Only `gets` asks for it.
    number: bytes


class AsyncConnection:
    """One connection, one command at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prefix: bytes) -> None:
        self._reader, self._writer, self._prefix = reader, writer, prefix

    async def get(self, keys: Sequence[str], *, verb: bytes = b"get") -> dict[str, Found]:
        """What stands under the keys. Raises `RefusedError`, `ValueError`, `OSError` or `EOFError`."""
        named = {self._prefix + key.encode(): key for key in keys}
        self._writer.write(b"%b %b\r\n" % (verb, b" ".join(named)))
        found: dict[str, Found] = {}
        while (line := await self._line()) != b"END":
            word, key, flags, size, *number = line.split(b" ")
            if word != b"VALUE":
                raise ValueError(f"{line[:80]!r} is no answer to {verb!r}")
            data = await self._reader.readexactly(int(size) + 2)
            found[named[key]] = Found(Item(data[:-2], int(flags)), number[0] if number else b"")
        return found

    async def store(self, command: Add | Cas, number: bytes = b"") -> bool:
        """`add`, or `cas` with the number. Raises as `get`."""
        item = command.item
        verb, end = (b"cas", b" " + number) if number else (b"add", b"")
        head = b"%b %b%b %d %d %d%b\r\n" % (
            verb, self._prefix, command.key.encode(), item.flags, command.expire, len(item.data), end,
        )  # fmt: skip
        self._writer.write(head + item.data + b"\r\n")
        line = await self._line()
        if line not in (b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND"):
            raise ValueError(f"{line[:80]!r} is no answer to {verb!r}")
        return line == b"STORED"

    async def log_in(self, command: bytes) -> None:
        """Raises `ConnectionError`."""
        self._writer.write(command)
        if (answer := await self._reader.readuntil(b"\r\n")) != STORED:
            raise ConnectionError(f"memcached answers user and password with {answer!r}")

    def is_fit(self) -> bool:
        return not (self._writer.is_closing() or self._reader.at_eof())

    def close(self) -> None:
        self._writer.close()

    async def _line(self) -> bytes:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        if line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR")):
            raise RefusedError(line.decode(errors="replace"))
        return line


class AsyncNode:
    """One memcached node, for any number of tasks."""

    def __init__(
        self, label: str, address: tuple[str, int], *, prefix: str, timeout: float, entry: Entry = OPEN
    ) -> None:
        self._address, self._prefix, self._timeout, self._entry = address, prefix.encode(), timeout, entry
        self._idle: list[AsyncConnection] = []
        self._home: tuple[int, asyncio.AbstractEventLoop | None] = (0, None)
        self._rest = Rest(label)

    async def get(self, keys: Sequence[str]) -> dict[str, Item] | Failure:
        _, found = await self._ask(lambda connection: connection.get(keys))
        return found if isinstance(found, Failure) else {key: item for key, (item, _) in found.items()}

    async def add(self, command: Add) -> bool | Failure:
        _, added = await self._ask(lambda connection: connection.store(command))
        return added

    async def gets(self, key: str) -> Held | Failure | None:
        connection, answer = await self._ask(lambda connection: connection.get([key], verb=b"gets"), keep=True)
        if isinstance(answer, Failure):
            return answer
        if key not in answer:
            self.hand_back(connection)
            return None
        item, number = answer[key]
        return Held(item, Token(self, connection, number))

    async def cas(self, connection: AsyncConnection, number: bytes, command: Cas) -> bool | Failure:
        stored = await self._try(connection, lambda: connection.store(command, number))
        self.hand_back(connection)
        return stored

    def hand_back(self, connection: AsyncConnection) -> None:
        if connection.is_fit() and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _ask(
        self, command: Callable[[AsyncConnection], Awaitable[T]], *, keep: bool = False
    ) -> tuple[Any, T | Failure]:
        now = asyncio.get_running_loop().time
        if self._rest.is_on(now()):
            return None, Failure.DOWN
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._take()
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            self._rest.begin(now(), error)
            return None, Failure.DOWN
        answer = await self._try(connection, lambda: command(connection))
        if not keep or isinstance(answer, Failure):
            self.hand_back(connection)
        return connection, answer

    async def _try(self, connection: AsyncConnection, command: Callable[[], Awaitable[T]]) -> T | Failure:
        try:
            async with asyncio.timeout(self._timeout):
                answer = await command()
        except RefusedError:
            connection.close()
            return Failure.REFUSED
        except (OSError, EOFError, ValueError, KeyError, asyncio.LimitOverrunError) as error:
            connection.close()
            self._rest.begin(asyncio.get_running_loop().time(), error)
            return Failure.DOWN
        except BaseException:  # cancelled, with an answer under way
            connection.close()
            raise
        self._rest.end()
        return answer

    async def _take(self) -> AsyncConnection:
        home = (os.getpid(), asyncio.get_running_loop())
        if self._home != home:
            self._home, self._idle = home, []
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fit():
                return connection
            connection.close()
        streams = await asyncio.open_connection(*self._address, ssl=self._entry.tls)
        connection = AsyncConnection(*streams, self._prefix)
        try:
            if self._entry.login:
                await connection.log_in(self._entry.login)
        except BaseException:
            connection.close()
            raise
        return connection


class Token(NamedTuple):
    """The connection that answered `gets`, and the CAS number that it said."""

    node: AsyncNode
    connection: AsyncConnection
    number: bytes


class AsyncNodes:
    """All nodes, each key on its owner."""

    def __init__(
        self, addresses: Mapping[str, tuple[str, int]], *, ring: Kind, prefix: str, timeout: float, entry: Entry
    ) -> None:
        nodes = {
            label: AsyncNode(label, address, prefix=prefix, timeout=timeout, entry=entry)
            for label, address in addresses.items()
        }
        self._placement = Placement(nodes, kind=ring, prefix=prefix)

    async def answer(self, commands: Sequence[Any]) -> Sequence[Any]:
        """Do what a reader asks of memcached, commands of one kind, and answer in the same order."""
        match commands[0]:
            case Get():
                return await self._get([command.key for command in commands])
            case Add(key) as add:
                return [await self._placement.owner(key).add(add)]
            case Gets(key):
                return [await self._placement.owner(key).gets(key)]
            case Cas(token=Token(node, connection, number)) as cas:
                return [await node.cas(connection, number, cas)]
            case LetGo(Token(node, connection)):
                node.hand_back(connection)
                return [None]
        raise TypeError(f"{commands[0]!r} is nothing that memcached is asked for")

    async def _get(self, keys: Sequence[str]) -> list[Item | Failure | None]:
        """One command a node, all nodes at once."""
        found: dict[str, Item | Failure | None] = dict.fromkeys(keys, Failure.DOWN)
        by_node = self._placement.by_node(keys)
        for (_, own), items in zip(
            by_node, await asyncio.gather(*(node.get(own) for node, own in by_node)), strict=True
        ):
            if not isinstance(items, Failure):
                found |= dict.fromkeys(own) | items
        return [found[key] for key in keys]

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
