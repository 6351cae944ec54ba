"""A replication connection: the log's messages one way, the position that is done with the other way.

psycopg has no call for this yet, so the copy protocol is spoken through its `PGconn`.

Rules of this file:

1. The position that is sent is the one that was given to `confirm`, never one that was merely received.
2. A status is sent every STATUS_SECONDS, also while the caller takes nothing: the server would drop the connection, and
   keep its log from the last position on. Each asks for a keepalive, so a server that says nothing for SILENCE_SECONDS
   is lost, whatever its own timeouts are.

Source: PostgreSQL's documentation, "Streaming Replication Protocol".
"""

import asyncio
import struct
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import pq

from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.follow.pgoutput import EPOCH
from invalidator.follow.values import SESSION
from invalidator.postgres.connection import connect, one_line

#: Seconds between two statuses. The server waits 60 for one by default (wal_sender_timeout), and deletes log after one.
STATUS_SECONDS = 1.0
SILENCE_SECONDS = 30.0
#: Seconds between libpq's own signs of life, which notice a server that is lost while it makes a slot.
KEEPALIVE_SECONDS = "10"
#: Messages handed out at a time.
AT_ONCE = 1000

_DATA, _KEEPALIVE = b"wk"
_HEADER = struct.Struct(">cQQq")
_ALIVE = struct.Struct(">cQqB")
_STATUS = struct.Struct(">cQQQqB")


class Received(NamedTuple):
    """One message: of the output plugin, or, with no data, a keepalive."""

    #: A keepalive: the position up to which the server has read its log.
    position: int
    data: bytes | None


class Stream:
    """An open replication stream of one slot."""

    def __init__(self, connection: "psycopg.AsyncConnection[Any]") -> None:
        self._connection = connection
        self._libpq = connection.pgconn
        self._position = 0
        #: The furthest position that the server has named.
        self.seen = 0
        self._statuses: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, *, slot: str, publication: str, is_temporary: bool = False) -> "Stream":
        """Begin to stream from the slot's own position.

        A temporary slot is made, from now on, and the server drops it with this connection: it retains no log for a
        reader that is away.

        Raises:
            RefusedError: the server does not let this user replicate.
            ConfigurationError: there is no such slot or publication, or another follower has it.
            UnreachableError: the server does not answer.
        """
        alive = KEEPALIVE_SECONDS
        connection = await connect(
            url, replication="database", options=SESSION, keepalives_idle=alive, keepalives_interval=alive
        )
        stream = cls(connection)
        try:
            if is_temporary:
                await stream._make(slot)
            await stream._start(slot, publication)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def receive(self) -> list[Received]:
        """Wait for messages, and return those that are there, a thousand at most.

        Raises:
            UnreachableError: the connection was lost, or the server ended the stream.
        """
        received: list[Received] = []
        while not received:
            try:
                while len(received) < AT_ONCE and (message := self._next()):
                    received.append(message)
                if not received:
                    await self._readable(SILENCE_SECONDS)
                    self._libpq.consume_input()
            except psycopg.Error as error:
                raise UnreachableError(f"lost the database's log: {one_line(error)}") from error
        self.seen = max(self.seen, received[-1].position)
        return received

    def confirm(self, position: int, *, at_once: bool = False) -> None:
        """Let the server forget its log up to here, with the next status."""
        self._position = max(self._position, position)
        if at_once:
            self._send_status()

    async def close(self) -> None:
        """Send the last position and close; never raises."""
        if self._statuses:
            self._statuses.cancel()
        with suppress(UnreachableError):  # then it is gone, and the server keeps what was not confirmed
            self._send_status()
        await self._connection.close()

    async def _make(self, slot: str) -> None:
        command = f'CREATE_REPLICATION_SLOT "{slot}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT'
        # Without a deadline: the server waits until the transactions that are open now have ended.
        result = await self._answer(command, within=None)
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise _refusal(result)
        self._libpq.get_result()  # None: this command is over

    async def _start(self, slot: str, publication: str) -> None:
        names = publication.replace("'", "''").replace('"', '""')
        result = await self._answer(
            f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 '
            f"(proto_version '1', publication_names '\"{names}\"', messages 'true')",
            within=SILENCE_SECONDS,
        )
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise _refusal(result)
        self._statuses = asyncio.create_task(self._send_statuses())

    async def _answer(self, command: str, *, within: float | None) -> Any:
        """Return the first result of a command, for which the server has `within` seconds, or all the time it likes."""
        try:
            self._libpq.send_query(command.encode())
            self._libpq.flush()
            while self._libpq.is_busy():
                await self._readable(within)
                self._libpq.consume_input()
            return self._libpq.get_result()
        except psycopg.Error as error:
            raise UnreachableError(f"lost the database: {one_line(error)}") from error

    def _next(self) -> Received | None:
        size, data = self._libpq.get_copy_data(1)
        if size == 0:
            return None
        if size < 0:
            result = self._libpq.get_result()
            raise UnreachableError(f"the server ended its stream: {_message(result)}")
        if data[0] == _DATA:
            return Received(_HEADER.unpack_from(data)[1], bytes(data[_HEADER.size :]))
        if data[0] == _KEEPALIVE:
            _, position, _, wants_answer = _ALIVE.unpack_from(data)
            if wants_answer:
                self._send_status()
            return Received(position, None)
        raise UnreachableError(f"the server sent an unknown message: {bytes(data[:40])!r}")

    async def _readable(self, within: float | None) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._libpq.socket, ready.set)
        try:
            async with asyncio.timeout(within):
                await ready.wait()
        except TimeoutError as error:
            raise UnreachableError(f"the database has said nothing for {within:g} s") from error
        finally:
            loop.remove_reader(self._libpq.socket)

    async def _send_statuses(self) -> None:
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            try:
                self._send_status()
            except UnreachableError:
                return  # `receive` raises it, too

    def _send_status(self) -> None:
        now = (datetime.now(UTC) - EPOCH).total_seconds() * 1e6
        status = _STATUS.pack(b"r", self._position, self._position, self._position, int(now), 1)
        try:
            self._libpq.put_copy_data(status)
            self._libpq.flush()
        except psycopg.Error as error:
            raise UnreachableError(f"lost the database's log: {one_line(error)}") from error


def _refusal(result: Any) -> Exception:
    text = _message(result)
    match result and result.error_field(pq.DiagnosticField.SQLSTATE):
        case b"42704":
            return ConfigurationError(f"{text}: invalidator follow --create")
        case b"55006":
            return UnreachableError(f"{text}: another follower has it")
        case b"42501":
            return RefusedError(f"{text}: the user needs the attribute REPLICATION")
        case b"55000":
            return ConfigurationError(text)
    return UnreachableError(f"the server does not stream: {text}")


def _message(result: Any) -> str:
    if result is None:
        return "no reason given"
    return (result.error_message or b"").decode(errors="replace").strip().replace("\n", " ") or "no reason given"
