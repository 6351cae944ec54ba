"""A TCP proxy that misbehaves on request."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from .process import free_port


@dataclass
class Way:
    """The treatment of the bytes that go one way. Its fields may change at any time."""

    #: Seconds for which each piece of bytes is held back, one piece after the other.
    delay: float = 0.0
    #: Drop all bytes and the end of the connection, as a firewall does that drops packets. A connection that lost
    #: bytes is useless afterwards: `cut` or `reset` it.
    swallow: bool = False
    #: Called with each piece of bytes. The proxy passes on what it returns.
    rewrite: Callable[[bytes], bytes] | None = None
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """Hold back all bytes and ends of connections until `release`, without losing any: a partition that heals."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def let_through(self, data: bytes) -> bytes:
        """Wait until bytes may pass; return the part of `data` that does."""
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._open.wait()
        if self.swallow:
            return b""
        return self.rewrite(data) if self.rewrite else data

    async def let_end(self) -> None:
        """Wait until the end of the connection may pass. Never return if it is swallowed."""
        await self._open.wait()
        if self.swallow:
            await asyncio.Event().wait()


class TcpProxy:
    """A loopback address in front of `target` ("host:port", changeable for new connections)."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.port = free_port()
        self.requests, self.replies = Way(), Way()
        #: Connections accepted since the start.
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Accept connections, at first or again after `refuse`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """Refuse new connections until `start`. Open ones stay open."""
        if self._server:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        await self.refuse()
        await self.reset()

    async def cut(self) -> None:
        """End all connections the orderly way."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def reset(self) -> None:
        """End all connections with a RST on both sides. Bytes in transit are lost."""
        for writer in [writer for pair in self._connections.values() for writer in pair]:
            connection: socket.socket = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):  # one side may be gone while the end of the other is swallowed
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await self.cut()

    def inject(self, data: bytes) -> None:
        """Send bytes to all clients, as if the target had sent them."""
        for client, *_ in self._connections.values():
            client.write(data)

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        writers = self._connections[task] = [client]
        try:
            host, port = self.target.rsplit(":", 1)
            target_reader, target = await asyncio.open_connection(host, int(port))
            writers.append(target)
            ways = [_pump(client_reader, target, self.requests), _pump(target_reader, client, self.replies)]
            pumps = [asyncio.ensure_future(way) for way in ways]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # a dead target or cut(): in both cases the client sees its connection end
        finally:
            del self._connections[task]
            for writer in writers:
                writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(await way.let_through(data))
            await writer.drain()
    await way.let_end()
