"""memcached nodes for readers on an event loop: the asyncio twin of `blocking_nodes`, with its rules.

A connection belongs to the loop that opened it, and outlives neither that loop nor a fork. One cache may be used from
several loops.
"""

import asyncio
import select
import socket
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from invalidator.app.cache.commands import Add, Command, Failure, Get, Gets, LetGo
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.blocking_nodes import IDLE_CONNECTIONS
from invalidator.app.cache.nodes.dialing import Target, first_error, new_socket, targets
from invalidator.app.cache.nodes.node_state import NodeState
from invalidator.app.cache.nodes.protocol import ErrorReply, MalformedError, Reply, login_reply, refused, request
from invalidator.app.cache.nodes.routing import Placement, Token, by_node, plan
from invalidator.errors import UnreachableError
from invalidator.memcached.access import Access
from invalidator.memcached.host import LOOKUP_SECONDS, is_name
from invalidator.memcached.ring import Kind
from invalidator.settings import Address


class AsyncConnection(asyncio.Protocol):
    """One connection, for one request at a time, on one event loop."""

    def __init__(self, connected: socket.socket, loop: AbstractEventLoop, timeout: float) -> None:
        self._socket, self._loop, self._timeout = connected, loop, timeout
        self._transport: asyncio.Transport | None = None
        self._reply: Reply | None = None
        self._done: asyncio.Future[None] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self.opened_at = time.monotonic()
        self.is_open = True
        #: The number of answers to `gets` on it that have not been used.
        self.held = 0

    @classmethod
    async def dial(
        cls,
        address: Address,
        access: Access,
        timeout: float,  # noqa: ASYNC109  of every answer
    ) -> "AsyncConnection":
        """Connect and log in. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            connected = await _connected(address, loop)
            connection = cls(connected, loop, timeout)
            try:
                tls = access.tls() if access.tls else None
                name = (access.server_name or address.host) if tls else None
                await loop.create_connection(lambda: connection, sock=connected, ssl=tls, server_hostname=name)
                if access.login:
                    await connection._log_in(access.login)
            except BaseException:
                connection.close()
                raise
        return connection

    async def ask(self, data: bytes, reply: Reply) -> None:
        """Send a request and feed the reply until it is complete. A failure closes the connection.

        Raises:
            OSError: no complete answer arrived in time.
            MalformedError: the answer does not fit the request.
            ErrorReply: memcached refused the request.
        """
        if not self.is_open or self._transport is None:
            raise ConnectionError("the connection has ended and is not reopened")
        self._reply, self._done = reply, self._loop.create_future()
        self._timer = self._loop.call_later(self._timeout, self._time_out)
        try:
            self._transport.write(data)
            await self._done
        except BaseException:  # also when cancelled: the answer is still on its way
            self.close()
            raise
        finally:
            self._reply = None
            self._timer.cancel()

    def is_fit(self) -> bool:
        """Return True if an idle connection is open and has nothing to read, even for the loop."""
        return self.is_open and not self._poll.poll(0)

    def close(self) -> None:
        self.is_open = False
        if self._transport:
            self._transport.abort()
        else:
            self._socket.close()

    def close_anywhere(self) -> None:
        """Close it from another loop or thread, even if its own loop is closed."""
        self.is_open = False
        try:
            self._loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # the loop is closed
            with suppress(RuntimeError):
                self.close()
            self._socket.close()

    def abandon(self) -> None:
        """Close only this process's descriptor: the loop of a forked child's parent is not to be touched."""
        self.is_open = False
        self._socket.close()

    # For the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._done.done():  # an answer that nobody asked for
            self.close()
            return
        try:
            complete = self._reply.feed(data)
        except (MalformedError, ErrorReply) as error:
            self._done.set_exception(error)
            return
        if complete:
            self._done.set_result(None)
        elif self._timer:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._timeout, self._time_out)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._reply is not None and not self._done.done():
            self._done.set_exception(error or ConnectionError("memcached closed the connection"))

    def _time_out(self) -> None:
        if not self._done.done():
            self._done.set_exception(TimeoutError(f"memcached sent nothing for {self._timeout} s"))

    async def _log_in(self, login: bytes) -> None:
        try:
            await self.ask(login, login_reply())
        except (MalformedError, ErrorReply) as error:
            raise ConnectionError(f"memcached refused the login: {error}") from error


async def _connected(address: Address, loop: AbstractEventLoop) -> socket.socket:
    errors: list[OSError] = []
    for target in await _targets(address, loop):
        made = new_socket(target)
        try:
            made.setblocking(False)
            await loop.sock_connect(made, target.address)
        except OSError as error:
            made.close()
            errors.append(error)
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise first_error(errors)


async def _targets(address: Address, loop: AbstractEventLoop) -> list[Target]:
    if address.path:
        return [Target(socket.AF_UNIX, address.path)]
    try:
        return targets(address.host, await loop.getaddrinfo(*address, type=socket.SOCK_STREAM))
    except UnicodeError as error:  # a label of the name is empty or too long
        raise OSError(f"{address.host} is not a name: {error}") from error


class AsyncNode:
    """One memcached node, for any number of tasks on any number of loops."""

    def __init__(self, label: str, address: Address, *, prefix: str, timeout: float, access: Access) -> None:
        self._address, self._prefix, self._timeout, self._access = address, prefix.encode(), timeout, access
        self._state = NodeState(label)
        #: Seconds. A name may move to another machine, so it is looked up again.
        self._longest_life = LOOKUP_SECONDS if is_name(address) else float("inf")
        self._begin()
        begin_anew_after_fork(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[AbstractEventLoop, list[AsyncConnection]] = {}

    async def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind, and return the answers in the same order.

        `Cas` and `LetGo` name a connection: it has to be the same for all of them.
        """
        first: Command = commands[0]
        if isinstance(first, Get | Add | Gets):
            return await self._on_any_connection(commands)
        connection: AsyncConnection = first.token.connection  # type: ignore[union-attr]
        connection.held -= len(commands)
        answers = [None] * len(commands) if isinstance(first, LetGo) else await self._exchange(connection, commands)
        if not connection.held:
            self._hand_back(connection)
        return answers

    def close(self) -> None:
        with self._lock:
            pools, self._idle = self._idle, {}
        for connection in [connection for pool in list(pools.values()) for connection in pool]:
            connection.close_anywhere()

    def begin_in_child(self) -> None:
        connections = [connection for pool in list(self._idle.values()) for connection in pool]
        self._begin()
        for connection in connections:
            connection.abandon()

    async def _on_any_connection(self, commands: Sequence[Any]) -> list[Any]:
        down: list[Any] = [Failure.DOWN] * len(commands)
        if not self._state.is_well and self._state.skips(commands[0], time.monotonic()):
            return down
        try:
            connection = await self._take()
        except (OSError, UnreachableError) as error:
            self._state.failed(time.monotonic(), error)
            return down

        def hold(number: bytes) -> Token:
            connection.held += 1
            return Token(self, connection, number)

        answers = await self._exchange(connection, commands)
        if not self._state.is_well or isinstance(commands[0], Gets):
            answers = self._state.usable(answers, hold)
        if not connection.held:
            self._hand_back(connection)
        return answers

    async def _exchange(self, connection: AsyncConnection, commands: Sequence[Any]) -> list[Any]:
        data, reply = request(commands, self._prefix)
        try:
            await connection.ask(data, reply)
        except ErrorReply:
            return refused(reply, commands)
        except (OSError, MalformedError) as error:
            self._state.failed(time.monotonic(), error)
            return [Failure.DOWN] * len(commands)
        if not self._state.is_well:
            self._state.answered()
        return reply.answers

    def _hand_back(self, connection: AsyncConnection) -> None:
        pool = self._pool()
        if connection.is_open and len(pool) < IDLE_CONNECTIONS:
            pool.append(connection)
        else:
            connection.close()

    async def _take(self) -> AsyncConnection:
        pool = self._pool()
        while pool:
            connection = pool.pop()
            if connection.is_fit() and time.monotonic() - connection.opened_at < self._longest_life:
                return connection
            connection.close()
            self._state.may_have_restarted()
        return await AsyncConnection.dial(self._address, self._access, self._timeout)

    def _pool(self) -> list[AsyncConnection]:
        """Return the idle connections of the running loop."""
        loop = asyncio.get_running_loop()
        pool = self._idle.get(loop)
        return self._new_pool(loop) if pool is None else pool

    def _new_pool(self, loop: AbstractEventLoop) -> list[AsyncConnection]:
        with self._lock:
            for other in [other for other in self._idle if other.is_closed()]:
                for connection in self._idle.pop(other):
                    connection.close_anywhere()
            return self._idle.setdefault(loop, [])


class AsyncNodes:
    """All nodes, with each key on its owner."""

    def __init__(
        self, addresses: Mapping[str, Address], *, ring: Kind, prefix: str, timeout: float, access: Access
    ) -> None:
        nodes = {
            label: AsyncNode(label, address, prefix=prefix, timeout=timeout, access=access)
            for label, address in addresses.items()
        }
        self._placement = Placement(nodes, kind=ring, prefix=prefix)

    async def get(self, key: str) -> Item | Failure | None:
        node = self._placement.owner(key)
        if node is None:
            return Failure.DOWN
        (found,) = await node.answer([Get(key)])
        return found  # type: ignore[no-any-return]

    async def get_many(self, keys: Sequence[str]) -> list[Item | Failure | None]:
        """Send one `get` to each node, all at once, and return the answers in the order of the keys."""
        owned = by_node(keys, self._placement)
        done = await asyncio.gather(*(node.answer([Get(key) for key in own]) for node, own in owned.items()))
        found: dict[str, Item | Failure | None] = {}
        for own, answers in zip(owned.values(), done, strict=True):
            found.update(zip(own, answers, strict=True))
        return [found.get(key, Failure.DOWN) for key in keys]

    async def answer(self, commands: Sequence[Any]) -> list[Any]:
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
