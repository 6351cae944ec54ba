"""memcached nodes for readers on an event loop: the asyncio twin of `invalidator.app.cache.nodes`.

pymemcache blocks, so the few commands of the protocol are written here. The rules are the same: each command, or pair
of commands, has a connection to itself. A failure ends its connection, and no command is repeated. A connection
outlives neither its event loop nor a fork.

Source: memcached's doc/protocol.txt, "Storage commands" and "Retrieval command".
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from invalidator.app.cache.commands import Add, Cas, Command, Failure, Get, Gets, Held, LetGo
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes import IDLE_CONNECTIONS
from invalidator.app.cache.routing import Cooldown, Placement, Token, plan
from invalidator.memcached.access import STORED, Access
from invalidator.memcached.ring import Kind

T = TypeVar("T")


class _ErrorReply(Exception):  # noqa: N818  an answer, which never leaves this file
    """Raised when memcached answers a command with an error line; the message is that line."""


class Found(NamedTuple):
    """An item, with its CAS number."""

    item: Item
    #: Empty unless the verb was `gets`.
    number: bytes


class AsyncConnection:
    """One connection, for one command at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prefix: bytes) -> None:
        self._reader, self._writer, self._prefix = reader, writer, prefix

    async def get(self, keys: Sequence[str], *, verb: bytes = b"get") -> dict[str, Found]:
        """Return the items under the keys. Raises `_ErrorReply`, `ValueError`, `OSError` or `EOFError`."""
        named = {self._prefix + key.encode(): key for key in keys}
        self._writer.write(b"%b %b\r\n" % (verb, b" ".join(named)))
        found: dict[str, Found] = {}
        while (line := await self._line()) != b"END":
            word, key, flags, size, *number = line.split(b" ")
            if word != b"VALUE":
                raise ValueError(f"{line[:80]!r} does not answer {verb!r}")
            data = await self._reader.readexactly(int(size) + 2)
            found[named[key]] = Found(Item(data[:-2], int(flags)), number[0] if number else b"")
        return found

    async def store(self, command: Add | Cas, number: bytes = b"") -> bool:
        """Send `add`, or `cas` with the number, and return True if the item was stored. Raises as `get`."""
        item = command.item
        verb, end = (b"cas", b" " + number) if number else (b"add", b"")
        head = b"%b %b%b %d %d %d%b\r\n" % (
            verb, self._prefix, command.key.encode(), item.flags, command.expire, len(item.data), end,
        )  # fmt: skip
        self._writer.write(head + item.data + b"\r\n")
        line = await self._line()
        if line not in (b"STORED", b"NOT_STORED", b"EXISTS", b"NOT_FOUND"):
            raise ValueError(f"{line[:80]!r} does not answer {verb!r}")
        return line == b"STORED"

    async def log_in(self, command: bytes) -> None:
        """Send the command that logs in. Raises `ConnectionError`."""
        self._writer.write(command)
        if (answer := await self._reader.readuntil(b"\r\n")) != STORED:
            raise ConnectionError(f"memcached answered the login with {answer!r}")

    def is_fit(self) -> bool:
        return not (self._writer.is_closing() or self._reader.at_eof())

    def close(self) -> None:
        self._writer.close()

    async def _line(self) -> bytes:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        if line.startswith((b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR")):
            raise _ErrorReply(line.decode(errors="replace"))
        return line


class AsyncNode:
    """One memcached node, for any number of tasks."""

    def __init__(self, label: str, address: tuple[str, int], *, prefix: str, timeout: float, access: Access) -> None:
        self._address, self._prefix, self._timeout, self._access = address, prefix.encode(), timeout, access
        self._idle: list[AsyncConnection] = []
        self._home: tuple[int, asyncio.AbstractEventLoop | None] = (0, None)
        self._cooldown = Cooldown(label)

    async def answer(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        match commands[0]:
            case Get():
                found = await self.get([command.key for command in commands if isinstance(command, Get)])
                return [found] * len(commands) if isinstance(found, Failure) else list(found)
            case Add() as add:
                return [await self.add(add)]
            case Gets(key):
                return [await self.gets(key)]
            case Cas(token=Token(_, connection, number)) as cas:
                return [await self.cas(connection, number, cas)]
            case LetGo(Token(_, connection)):
                self.hand_back(connection)
                return [None]
        raise TypeError(f"{commands[0]!r} is no command for memcached")

    async def get(self, keys: Sequence[str]) -> list[Item | None] | Failure:
        _, found = await self._ask(lambda connection: connection.get(keys))
        if isinstance(found, Failure):
            return found
        return [found[key].item if key in found else None for key in keys]

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
        if self._cooldown.is_on(now()):
            return None, Failure.DOWN
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._take()
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            self._cooldown.begin(now(), error)
            return None, Failure.DOWN
        answer = await self._try(connection, lambda: command(connection))
        if not keep or isinstance(answer, Failure):
            self.hand_back(connection)
        return connection, answer

    async def _try(self, connection: AsyncConnection, command: Callable[[], Awaitable[T]]) -> T | Failure:
        try:
            async with asyncio.timeout(self._timeout):
                answer = await command()
        except _ErrorReply:
            connection.close()
            return Failure.REFUSED
        except (OSError, EOFError, ValueError, KeyError, asyncio.LimitOverrunError) as error:
            connection.close()
            self._cooldown.begin(asyncio.get_running_loop().time(), error)
            return Failure.DOWN
        except BaseException:  # cancelled while an answer was on its way
            connection.close()
            raise
        self._cooldown.end()
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
        streams = await asyncio.open_connection(*self._address, ssl=self._access.tls() if self._access.tls else None)
        connection = AsyncConnection(*streams, self._prefix)
        try:
            if self._access.login:
                await connection.log_in(self._access.login)
        except BaseException:
            connection.close()
            raise
        return connection


class AsyncNodes:
    """All nodes, with each key on its owner."""

    def __init__(
        self, addresses: Mapping[str, tuple[str, int]], *, ring: Kind, prefix: str, timeout: float, access: Access
    ) -> None:
        nodes = {
            label: AsyncNode(label, address, prefix=prefix, timeout=timeout, access=access)
            for label, address in addresses.items()
        }
        self._placement = Placement(nodes, kind=ring, prefix=prefix)

    async def get(self, key: str) -> Item | Failure | None:
        node = self._placement.owner(key)
        found = await node.get([key]) if node else Failure.DOWN
        return found if isinstance(found, Failure) else found[0]

    async def answer(self, commands: Sequence[Command]) -> Sequence[Any]:
        """Execute commands of one kind on all nodes at once, and return the answers in the same order."""
        answers: list[Any] = [Failure.DOWN] * len(commands)
        planned = plan(commands, self._placement)
        done = await asyncio.gather(*(node.answer([commands[index] for index in own]) for node, own in planned))
        for (_, own), found in zip(planned, done, strict=True):
            for index, answer in zip(own, found, strict=True):
                answers[index] = answer
        return answers

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
