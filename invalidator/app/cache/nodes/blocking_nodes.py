"""memcached nodes for blocking readers: each command, or pair of commands, has a connection to itself.

Rules of this file:

1. A connection is opened once and never reopened: a `cas` on another connection than its `gets` may meet a restarted
   memcached that uses the same CAS numbers again.
2. A connection on which anything failed is closed, because its late answer would be taken for the next one. An idle
   connection that has something to read has ended or is out of step, and is closed too.
3. No command is repeated. A node that did not answer counts as down, and the source is read.
4. A connection does not outlive a fork: two processes would read each other's answers.
"""

import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from invalidator.app.cache.commands import Add, Command, Failure, Get, Gets, LetGo
from invalidator.app.cache.fork import begin_anew_after_fork
from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.dialing import Target, first_error, new_socket, targets
from invalidator.app.cache.nodes.node_state import NodeState
from invalidator.app.cache.nodes.protocol import (
    ErrorReply,
    MalformedError,
    Reply,
    Retrieval,
    login_reply,
    only_item,
    refused,
    request,
)
from invalidator.app.cache.nodes.routing import Placement, Token, by_node, plan
from invalidator.errors import UnreachableError
from invalidator.memcached.access import Access
from invalidator.memcached.host import LOOKUP_SECONDS, is_name
from invalidator.memcached.ring import Kind
from invalidator.settings import Address

#: Idle connections kept for each node. Those that more threads opened at once are closed.
IDLE_CONNECTIONS = 32
#: Bytes read at once.
PIECE = 65_536


class BlockingConnection:
    """One connection, for one request at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        #: Bytes that TLS has decrypted and not handed out.
        self._pending: Callable[[], int] = getattr(connected, "pending", int)
        self.opened_at = time.monotonic()
        self.is_open = True
        #: The number of answers to `gets` on it that have not been used.
        self.held = 0

    @classmethod
    def dial(cls, address: Address, access: Access, timeout: float) -> "BlockingConnection":
        """Connect and log in. Raises `OSError`."""
        connected = _connected(address, timeout)
        try:
            if access.tls:
                name = access.server_name or address.host
                connected = access.tls().wrap_socket(connected, server_hostname=name)
        except BaseException:
            connected.close()
            raise
        if not access.tls:
            _leave_timeout_to_the_kernel(connected, timeout)
        connection = cls(connected)
        if access.login:
            connection._log_in(access.login)
        return connection

    def ask(self, data: bytes, reply: Reply) -> None:
        """Send a request and feed the reply until it is complete. A failure closes the connection.

        Raises:
            OSError: no complete answer arrived in time.
            MalformedError: the answer does not fit the request.
            ErrorReply: memcached refused the request.
        """
        try:
            self._send(data)
            while not reply.feed(self._piece()):
                pass
        except BaseException:
            self.close()
            raise

    def get(self, key: bytes) -> Item | None:
        """Return the item under one key, prefix included. Raises as `ask`."""
        try:
            self._send(b"get " + key + b"\r\n")
            data = self._piece()
            if item := only_item(data, key):
                return item
            reply = Retrieval([key], numbered=False)
            while not reply.feed(data):
                data = self._piece()
        except BaseException:
            self.close()
            raise
        found: Item | None = reply.answers[0]
        return found

    def is_fit(self) -> bool:
        """Return True if an idle connection is open and has nothing to read."""
        return self.is_open and not self._poll.poll(0) and not self._pending()

    def close(self) -> None:
        self.is_open = False
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError as error:
            raise TimeoutError("memcached took nothing in time") from error

    def _piece(self) -> bytes:
        try:
            piece = self._socket.recv(PIECE)
        except BlockingIOError as error:
            raise TimeoutError("memcached sent nothing in time") from error
        if not piece:
            raise ConnectionError("memcached closed the connection")
        return piece

    def _log_in(self, login: bytes) -> None:
        try:
            self.ask(login, login_reply())
        except (MalformedError, ErrorReply) as error:
            raise ConnectionError(f"memcached refused the login: {error}") from error


def _connected(address: Address, timeout: float) -> socket.socket:
    errors: list[OSError] = []
    for target in _targets(address):
        made = new_socket(target)
        try:
            made.settimeout(timeout)
            made.connect(target.address)
        except OSError as error:
            made.close()
            errors.append(error)
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise first_error(errors)


def _leave_timeout_to_the_kernel(connected: socket.socket, timeout: float) -> None:
    """Set the timeout of each call in the kernel: Python's own costs a `poll` before each."""
    seconds, rest = divmod(timeout, 1)
    packed = struct.pack("ll", int(seconds), max(1, int(rest * 1_000_000)))
    connected.settimeout(None)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, packed)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, packed)


def _targets(address: Address) -> list[Target]:
    if address.path:
        return [Target(socket.AF_UNIX, address.path)]
    try:
        return targets(address.host, socket.getaddrinfo(*address, type=socket.SOCK_STREAM))
    except UnicodeError as error:  # a label of the name is empty or too long
        raise OSError(f"{address.host} is not a name: {error}") from error


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

    def get(self, key: str) -> Item | Failure | None:
        """Answer one `Get`, with less ado than `answer`."""
        if not self._state.is_well:
            found: Item | Failure | None = self.answer([Get(key)])[0]
            return found
        try:
            connection = self._take()
            item = connection.get(self._prefix + key.encode())
        except ErrorReply:
            return Failure.REFUSED
        except (OSError, UnreachableError, MalformedError) as error:
            self._state.failed(time.monotonic(), error)
            return Failure.DOWN
        self._hand_back(connection)
        return item

    def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind, and return the answers in the same order.

        `Cas` and `LetGo` name a connection: it has to be the same for all of them.
        """
        first: Command = commands[0]
        if isinstance(first, Get | Add | Gets):
            return self._on_any_connection(commands)
        connection: BlockingConnection = first.token.connection  # type: ignore[union-attr]
        connection.held -= len(commands)
        answers = [None] * len(commands) if isinstance(first, LetGo) else self._exchange(connection, commands)
        if not connection.held:
            self._hand_back(connection)
        return answers

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def begin_in_child(self) -> None:
        self.close()  # in the child only: the parent's descriptors stay open

    def _on_any_connection(self, commands: Sequence[Any]) -> list[Any]:
        down: list[Any] = [Failure.DOWN] * len(commands)
        if not self._state.is_well and self._state.skips(commands[0], time.monotonic()):
            return down
        try:
            connection = self._take()
        except (OSError, UnreachableError) as error:
            self._state.failed(time.monotonic(), error)
            return down

        def hold(number: bytes) -> Token:
            connection.held += 1
            return Token(self, connection, number)

        answers = self._exchange(connection, commands)
        if not self._state.is_well or isinstance(commands[0], Gets):
            answers = self._state.usable(answers, hold)
        if not connection.held:
            self._hand_back(connection)
        return answers

    def _exchange(self, connection: BlockingConnection, commands: Sequence[Any]) -> list[Any]:
        data, reply = request(commands, self._prefix)
        try:
            connection.ask(data, reply)
        except ErrorReply:
            return refused(reply, commands)
        except (OSError, MalformedError) as error:
            self._state.failed(time.monotonic(), error)
            return [Failure.DOWN] * len(commands)
        if not self._state.is_well:
            self._state.answered()
        return reply.answers

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

    def get(self, key: str) -> Item | Failure | None:
        node = self._placement.owner(key)
        return node.get(key) if node else Failure.DOWN

    def get_many(self, keys: Sequence[str]) -> list[Item | Failure | None]:
        """Send one `get` to each node, and return the answers in the order of the keys."""
        found: dict[str, Item | Failure | None] = {}
        for node, own in by_node(keys, self._placement).items():
            found.update(zip(own, node.answer([Get(key) for key in own]), strict=True))
        return [found.get(key, Failure.DOWN) for key in keys]

    def answer(self, commands: Sequence[Any]) -> list[Any]:
        """Execute commands of one kind, and return the answers in the same order."""
        answers: list[Any] = [Failure.DOWN] * len(commands)
        for node, own in plan(commands, self._placement):
            for index, answer in zip(own, node.answer([commands[index] for index in own]), strict=True):
                answers[index] = answer
        return answers

    def close(self) -> None:
        for node in self._placement.nodes.values():
            node.close()
