"""One connection to a memcached node, shared by all tasks of an event loop: requests are pipelined.

    task ──ask──> write, and queue the reply          data ──> feed the first reply ──> wake its task ──> the next one

memcached answers a connection in order, so the replies are fed in the order of the requests. Rules of this file:

1. A connection is opened once and never reopened: a `cas` on another connection than its `gets` may meet a restarted
   memcached that uses the same CAS numbers again.
2. A connection on which anything failed is closed, and whatever waits on it fails: later answers would be taken for
   the wrong ones. The same if anything arrives while nothing is asked.
3. The answer to a task that was cancelled is still read, and dropped.
"""

import asyncio
import select
import socket
import time
from asyncio import AbstractEventLoop
from collections import deque
from contextlib import suppress
from typing import cast

from invalidator.app.cache.nodes.dialing import Target, first_error, new_socket, targets
from invalidator.app.cache.nodes.protocol import ErrorReply, MalformedError, Reply, login
from invalidator.memcached.access import Access
from invalidator.settings import Address

#: The end of a reply: None if it is complete, or the error that ended the connection.
Ended = asyncio.Future[Exception | None]


class AbandonedError(ConnectionError):
    """The error of a request whose connection was closed for a reason that says nothing against the node."""


class AsyncConnection(asyncio.Protocol):
    """One connection, for any number of requests at a time, on one event loop."""

    def __init__(self, connected: socket.socket, loop: AbstractEventLoop, timeout: float) -> None:
        self._socket, self._loop, self._timeout = connected, loop, timeout
        self._transport: asyncio.Transport | None = None
        self._pending: deque[tuple[Reply, Ended]] = deque()
        #: The time of the loop since which the first reply has made no progress.
        self._waiting_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._is_retired = False
        self.opened_at = time.monotonic()
        self.is_open = True

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

    def ask(self, data: bytes, reply: Reply) -> Ended:
        """Send a request on a fit connection. The future ends once the reply is complete.

        It returns the error that prevented a complete reply, if any did: an `OSError`, a `MalformedError` if the answer
        does not fit the request, or an `ErrorReply` if memcached refused it.
        """
        ended: Ended = self._loop.create_future()
        if not self.is_open:
            ended.set_result(ConnectionError("the connection has ended and is not reopened"))
            return ended
        if not self._pending:
            self._waiting_since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout, self._check_progress)
        self._pending.append((reply, ended))
        assert self._transport
        self._transport.write(data)
        return ended

    def is_fit(self) -> bool:
        """Return True if it is open and has nothing to read that was not asked for, not even for the loop."""
        return self.is_open and (bool(self._pending) or not self._poll.poll(0))

    def retire(self) -> None:
        """Close it once nothing is pending."""
        self._is_retired = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        self._fail(AbandonedError("the connection was closed"))

    def retire_anywhere(self) -> None:
        """Retire it from another loop or thread, even if its own loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self.retire)
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
        self._waiting_since = self._loop.time()
        try:
            while data:
                data = self._feed(data)
        except (MalformedError, ErrorReply) as error:
            self._fail(error)
        if self._is_retired and not self._pending:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("memcached closed the connection"))

    def _feed(self, data: bytes) -> bytes:
        """Feed the first reply, and return the bytes that follow it."""
        if not self._pending:
            raise MalformedError(f"{data[:80]!r} answers nothing that was asked")
        reply, ended = self._pending[0]
        if not reply.feed(data):
            return b""
        if reply.excess and len(self._pending) == 1:
            raise MalformedError(f"{reply.excess[:80]!r} follows the end of the answer")
        self._pending.popleft()
        if not ended.done():  # its task may have been cancelled
            ended.set_result(None)
        return reply.excess

    def _check_progress(self) -> None:
        self._timer = None
        if self._pending:
            left = self._waiting_since + self._timeout - self._loop.time()
            if left > 0:
                self._timer = self._loop.call_later(left, self._check_progress)
            else:
                self._fail(TimeoutError(f"memcached sent nothing for {self._timeout} s"))

    def _fail(self, error: Exception) -> None:
        """Close the connection. The first request fails with the error, those behind it for want of a connection."""
        self.is_open = False
        if self._timer:
            self._timer.cancel()
        pending, self._pending = self._pending, deque()
        for _, ended in pending:
            if not ended.done():
                ended.set_result(error)
            if isinstance(error, ErrorReply):  # to the first request only
                error = AbandonedError(f"the connection was closed: {error}")
        if self._transport:
            self._transport.abort()
        else:
            self._socket.close()

    async def _log_in(self, command: bytes) -> None:
        asked = login(command)
        error = await self.ask(asked.data, asked.reply)
        if isinstance(error, OSError):
            raise error
        if error:
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
