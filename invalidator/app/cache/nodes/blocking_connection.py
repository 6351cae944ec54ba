"""One connection to a memcached node, for blocking readers.

Rules of this file:

1. A connection is opened once and never reopened: a `cas` on another connection than its `gets` may meet a restarted
   memcached that uses the same CAS numbers again.
2. A connection on which anything failed is closed, because its late answer would be taken for the next one. An idle
   connection that has something to read has ended or is out of step, and is closed too.
"""

import select
import socket
import struct
import time
from collections.abc import Callable

from invalidator.app.cache.items import Item
from invalidator.app.cache.nodes.dialing import Target, first_error, new_socket, targets
from invalidator.app.cache.nodes.protocol import (
    ErrorReply,
    MalformedError,
    Reply,
    Retrieval,
    login,
    only_item,
)
from invalidator.memcached.access import Access
from invalidator.settings import Address

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

    def send(self, data: bytes) -> None:
        """Send a request. A failure closes the connection. Raises `OSError`."""
        try:
            self._send(data)
        except BaseException:
            self.close()
            raise

    def receive(self, reply: Reply) -> None:
        """Feed the reply until it is complete. A failure closes the connection.

        Raises:
            OSError: no complete answer arrived in time.
            MalformedError: the answer does not fit the request.
            ErrorReply: memcached refused the request.
        """
        try:
            while not reply.feed(self._piece()):
                pass
            _assert_nothing_follows(reply)
        except BaseException:
            self.close()
            raise

    def get(self, key: bytes) -> Item | None:
        """Return the item under one key, prefix included. Raises as `receive`."""
        try:
            self._send(b"get " + key + b"\r\n")
            data = self._piece()
            if item := only_item(data, key):
                return item
            reply = Retrieval([key], numbered=False)
            while not reply.feed(data):
                data = self._piece()
            _assert_nothing_follows(reply)
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

    def _log_in(self, command: bytes) -> None:
        asked = login(command)
        try:
            self.send(asked.data)
            self.receive(asked.reply)
        except (MalformedError, ErrorReply) as error:
            raise ConnectionError(f"memcached refused the login: {error}") from error


def _assert_nothing_follows(reply: Reply) -> None:
    if reply.excess:
        raise MalformedError(f"{reply.excess[:80]!r} follows the end of the answer")


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
