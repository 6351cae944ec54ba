"""memcached nodes for blocking readers: each command, or pair of commands, has a connection to itself.

    nodes: get, get_many, answer ──> each node: send ──> each node: receive          one round trip for all nodes

Rules of this file:

1. No command is repeated. A node that did not answer counts as down, and the source is read.
2. A connection does not outlive a fork: two processes would read each other's answers.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from invalidator.app.cache.commands import Cas, Command, Failure, Get, Gets, LetGo
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.blocking_connection import BlockingConnection
from invalidator.app.cache.nodes.node_state import NodeState
from invalidator.app.cache.nodes.protocol import ErrorReply, MalformedError, Request, refused, request, retrieval
from invalidator.app.cache.nodes.routing import Placement, Token, by_node, in_order, plan
from invalidator.errors import UnreachableError
from invalidator.memcached.access import Access
from invalidator.memcached.host import LOOKUP_SECONDS, is_name
from invalidator.memcached.ring import Kind
from invalidator.settings import Address

#: Idle connections kept for each node. Those that more threads opened at once are closed.
IDLE_CONNECTIONS = 32


class Sent(NamedTuple):
    """A request that was sent to a node."""

    node: "BlockingNode"
    kind: type[Command]
    request: Request
    #: None if the node is down.
    connection: BlockingConnection | None


class BlockingNode:
    """One memcached node, for any number of threads."""

    def __init__(self, label: str, address: Address, *, prefix: str, timeout: float, access: Access) -> None:
        self._address, self._prefix, self._timeout, self._access = address, prefix.encode(), timeout, access
        #: Appending and popping are atomic, so it needs no lock.
        self._idle: list[BlockingConnection] = []
        self._state = NodeState(label)
        #: Seconds. A name may move to another machine, so it is looked up again.
        self._longest_life = LOOKUP_SECONDS if is_name(address) else float("inf")
        begin_anew_after_fork(self)

    def get(self, key: bytes) -> Item | Failure | None:
        """Read one key, prefix included, with less ado than `exchange`."""
        if not self._state.is_well:
            found: Item | Failure | None = exchange([self.send(Get, retrieval([key]))])[0][0]
            return found
        try:
            connection = self._take()
            item = connection.get(key)
        except ErrorReply:
            return Failure.REFUSED
        except (OSError, UnreachableError, MalformedError) as error:
            self._state.failed(time.monotonic(), error)
            return Failure.DOWN
        self._hand_back(connection)
        return item

    def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        (answers,) = exchange([self.begin(commands)])
        return answers

    def begin(self, commands: Sequence[Any]) -> Sent:
        """Send commands of one kind: each `Cas` on the connection of its token, which is the same for all of them."""
        kind, asked = type(commands[0]), request(commands, self._prefix)
        if kind is not Cas:
            return self.send(kind, asked)
        connection: BlockingConnection = commands[0].token.connection
        connection.held -= len(commands)
        return self._send(Sent(self, kind, asked, connection))

    def send(self, kind: type[Command], asked: Request) -> Sent:
        """Send a request on any connection."""
        if self._state.is_well or not self._state.skips(kind, time.monotonic()):
            try:
                return self._send(Sent(self, kind, asked, self._take()))
            except (OSError, UnreachableError) as error:
                self._state.failed(time.monotonic(), error)
        return Sent(self, kind, asked, None)

    def receive(self, sent: Sent) -> list[Any]:
        """Return the answers to a request that was sent."""
        _, kind, asked, connection = sent
        if connection is None:
            return [Failure.DOWN] * asked.count
        try:
            connection.receive(asked.reply)
        except ErrorReply:
            return refused(asked)
        except (OSError, MalformedError) as error:
            self._state.failed(time.monotonic(), error)
            return [Failure.DOWN] * asked.count
        answers = asked.reply.answers
        if not self._state.is_well:
            self._state.answered()
        if not self._state.is_well or kind is Gets:
            answers = self._state.usable(answers, partial(self._hold, connection))
        if not connection.held:
            self._hand_back(connection)
        return answers

    def let_go(self, token: Token) -> None:
        """Hand back a connection that `Gets` held."""
        token.connection.held -= 1
        if not token.connection.held:
            self._hand_back(token.connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def begin_in_child(self) -> None:
        self.close()  # in the child only: the parent's descriptors stay open

    def _send(self, sent: Sent) -> Sent:
        assert sent.connection
        try:
            sent.connection.send(sent.request.data)
        except OSError as error:
            self._state.failed(time.monotonic(), error)
            return sent._replace(connection=None)
        return sent

    def _hold(self, connection: BlockingConnection, number: bytes) -> Token:
        connection.held += 1
        return Token(self, connection, number)

    def _hand_back(self, connection: BlockingConnection) -> None:
        if connection.is_open and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def _take(self) -> BlockingConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return BlockingConnection.dial(self._address, self._access, self._timeout)
            if connection.is_fit() and time.monotonic() - connection.opened_at < self._longest_life:
                return connection
            connection.close()
            self._state.may_have_restarted()


def exchange(requests: Iterable[Sent]) -> list[list[Any]]:
    """Send all requests, then return the answers to each. If interrupted, close the connections: answers may follow."""
    sent: list[Sent] = []
    try:
        sent.extend(requests)
        return [each.node.receive(each) for each in sent]
    except BaseException:
        for each in sent:
            if each.connection:
                each.connection.close()
        raise


class BlockingNodes:
    """All nodes, with each key on its owner."""

    def __init__(
        self, addresses: Mapping[str, Address], *, ring: Kind, prefix: str, timeout: float, access: Access
    ) -> None:
        nodes = {
            label: BlockingNode(label, address, prefix=prefix, timeout=timeout, access=access)
            for label, address in addresses.items()
        }
        self._placement = Placement(nodes, kind=ring, prefix=prefix)
        self._apart = partial(BlockingNodes, addresses, ring=ring, prefix=prefix, timeout=timeout, access=access)

    def apart(self) -> "BlockingNodes":
        """Return the same nodes, with connections of their own."""
        return self._apart()

    def get(self, key: str) -> Item | Failure | None:
        route = self._placement.route(key)
        return route.node.get(route.key) if route else Failure.DOWN

    def get_many(self, keys: Sequence[str]) -> list[Item | Failure | None]:
        """Send one `get` to each node, and return the answers in the order of the keys."""
        routes = list(map(self._placement.route, keys))
        owned = by_node(routes)
        answers = exchange(node.send(Get, retrieval(own)) for node, own in owned.items())
        return in_order(routes, owned, answers)

    def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        if isinstance(commands[0], LetGo):
            return [command.token.node.let_go(command.token) for command in commands]
        answers: list[Any] = [Failure.DOWN] * len(commands)
        planned = plan(commands, self._placement)
        sent = (node.begin([commands[index] for index in own]) for node, own in planned)
        for (_, own), found in zip(planned, exchange(sent), strict=True):
            for index, answer in zip(own, found, strict=True):
                answers[index] = answer
        return answers

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
