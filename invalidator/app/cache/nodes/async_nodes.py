"""memcached nodes for readers on event loops: the asyncio twin of `blocking_nodes`, with its rules.

Each loop has one connection to a node, which its tasks share. It outlives neither that loop nor a fork.
"""

import asyncio
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from invalidator.app.cache.commands import Cas, Command, Failure, Get, Gets, LetGo
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.async_connection import AbandonedError, AsyncConnection, Ended
from invalidator.app.cache.nodes.node_state import NodeState
from invalidator.app.cache.nodes.protocol import ErrorReply, Request, refused, request, retrieval
from invalidator.app.cache.nodes.routing import Placement, Token, by_node, in_order, plan
from invalidator.errors import UnreachableError
from invalidator.memcached.access import Access
from invalidator.memcached.host import LOOKUP_SECONDS, is_name
from invalidator.memcached.ring import Kind
from invalidator.settings import Address


class Sent(NamedTuple):
    """A request that was sent to a node."""

    node: "AsyncNode"
    kind: type[Command]
    request: Request
    #: None if the node is down.
    connection: AsyncConnection | None
    ended: Ended | None


class AsyncNode:
    """One memcached node, for any number of tasks on any number of loops."""

    def __init__(self, label: str, address: Address, *, prefix: str, timeout: float, access: Access) -> None:
        self._address, self._timeout, self._access = address, timeout, access
        self.prefix = prefix.encode()
        self._state = NodeState(label)
        #: Seconds. A name may move to another machine, so it is looked up again.
        self._longest_life = LOOKUP_SECONDS if is_name(address) else float("inf")
        self._begin()
        begin_anew_after_fork(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._connections: dict[AbstractEventLoop, AsyncConnection] = {}
        self._dials: dict[AbstractEventLoop, asyncio.Task[AsyncConnection | None]] = {}

    async def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        (answers,) = await exchange([(self, commands)])
        return answers

    def ready(self) -> AsyncConnection | None:
        """Return the running loop's connection if there is one, and no reason to think before using it."""
        connection = self._connections.get(asyncio.get_running_loop())
        if connection is None or not self._state.is_well:
            return None
        return connection if self._is_fit(connection) else None

    async def connect(self, kind: type[Command]) -> AsyncConnection | None:
        """Return a connection for such a command, or None if the node is down."""
        if not self._state.is_well and self._state.skips(kind, time.monotonic()):
            return None
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection and self._is_fit(connection):
            return connection
        dial = self._dials.get(loop)
        if dial is None:
            dial = self._dials[loop] = loop.create_task(self._dial(loop))
        return await asyncio.shield(dial)  # a task that is cancelled takes it from no other

    def send(self, connection: AsyncConnection | None, kind: type[Command], asked: Request) -> Sent:
        """Send a request. Without a connection the node counts as down."""
        ended = connection.ask(asked.data, asked.reply) if connection else None
        return Sent(self, kind, asked, connection, ended)

    async def receive(self, sent: Sent) -> list[Any]:
        """Return the answers to a request that was sent."""
        _, kind, asked, connection, ended = sent
        error = AbandonedError() if ended is None else await ended
        if isinstance(error, ErrorReply):
            return refused(asked)
        if error:
            if not isinstance(error, AbandonedError):
                self._state.failed(time.monotonic(), error)
            return [Failure.DOWN] * asked.count
        if not self._state.is_well:
            self._state.answered()
        if not self._state.is_well or kind is Gets:
            return self._state.usable(asked.reply.answers, partial(Token, self, connection))
        return asked.reply.answers

    def close(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, {}
        for connection in list(connections.values()):
            connection.retire_anywhere()

    def begin_in_child(self) -> None:
        connections = list(self._connections.values())
        self._begin()
        for connection in connections:
            connection.abandon()

    def _is_fit(self, connection: AsyncConnection) -> bool:
        if not connection.is_fit():
            connection.close()
            self._state.may_have_restarted()
            return False
        return time.monotonic() - connection.opened_at < self._longest_life

    async def _dial(self, loop: AbstractEventLoop) -> AsyncConnection | None:
        try:
            connection = await AsyncConnection.dial(self._address, self._access, self._timeout)
        except (OSError, UnreachableError) as error:
            self._state.failed(time.monotonic(), error)
            return None
        finally:
            self._dials.pop(loop, None)
        with self._lock:
            for other in [other for other in self._connections if other.is_closed()]:
                self._connections.pop(other).retire_anywhere()
            before = self._connections.get(loop)
            self._connections[loop] = connection
        if before:
            before.retire()
        return connection


async def exchange(asked: Sequence[tuple[AsyncNode, Sequence[Any]]]) -> list[list[Any]]:
    """Send commands of one kind to several nodes at once, and return the answers of each."""
    kind = type(asked[0][1][0])
    if kind is Cas:
        connections = [commands[0].token.connection for _, commands in asked]
    else:
        connections = await _connections([node for node, _ in asked], kind)
    sent = [
        node.send(connection, kind, request(commands, node.prefix))
        for connection, (node, commands) in zip(connections, asked, strict=True)
    ]
    return [await each.node.receive(each) for each in sent]


async def _connections(nodes: Iterable[AsyncNode], kind: type[Command]) -> list[AsyncConnection | None]:
    """Return a connection to each node, or None if it is down. Nodes without one are dialled at once."""
    ready = {node: node.ready() for node in nodes}
    lacking = [node for node, connection in ready.items() if connection is None]
    if lacking:
        dialled = dict(zip(lacking, await asyncio.gather(*(node.connect(kind) for node in lacking)), strict=True))
        ready = {node: dialled[node] if node in dialled else node.ready() for node in ready}
    return list(ready.values())


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
        route = self._placement.route(key)
        if route is None:
            return Failure.DOWN
        node = route.node
        connection = node.ready() or await node.connect(Get)
        (found,) = await node.receive(node.send(connection, Get, retrieval([route.key])))
        return found  # type: ignore[no-any-return]

    async def get_many(self, keys: Sequence[str]) -> list[Item | Failure | None]:
        """Send one `get` to each node, all at once, and return the answers in the order of the keys."""
        routes = list(map(self._placement.route, keys))
        owned = by_node(routes)
        connections = await _connections(owned, Get)
        sent = [
            node.send(connection, Get, retrieval(own))
            for connection, (node, own) in zip(connections, owned.items(), strict=True)
        ]
        return in_order(routes, owned, [await each.node.receive(each) for each in sent])

    async def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind on all nodes at once, and return the answers in the same order."""
        answers: list[Any] = [Failure.DOWN] * len(commands)
        if isinstance(commands[0], LetGo):
            return answers  # other tasks use the connection all the while
        planned = plan(commands, self._placement)
        if not planned:
            return answers
        done = await exchange([(node, [commands[index] for index in own]) for node, own in planned])
        for (_, own), found in zip(planned, done, strict=True):
            for index, answer in zip(own, found, strict=True):
                answers[index] = answer
        return answers

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
