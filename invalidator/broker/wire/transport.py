"""The transport of our connections: bytes from the broker go through the tap first, the rest to aiormq's reader.

Rules of this file:

1. Acks and rejects bypass aiormq as deliveries do, at a tenth of its cost, and all of them do, so that a reject cannot
   be overtaken by a later cumulative ack.
2. aiormq considers a connection broken when it sees nothing on it. Where the tap took its frames, it is fed a heartbeat
   frame instead, one a second at most. Where nothing came, nothing is invented, unless we paused the reading.
"""

import asyncio
import ssl as tls
from typing import Any

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.base import Frame
from pamqp.frame import marshal
from yarl import URL

from invalidator.broker.wire.tap import MalformedFrameError, Tap

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
HEARTBEAT_SECONDS = 1.0


class TappedProtocol(asyncio.StreamReaderProtocol):
    """The protocol of a tapped connection: bytes go through the tap first, the rest to aiormq's reader."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.tap = Tap()
        self._aiormq = reader
        self._loop = loop
        self._quiet_since = loop.time()
        self._paused = False
        self._socket: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._socket = transport
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        try:
            rest = self.tap.feed(data)
        except MalformedFrameError as error:
            self._aiormq.set_exception(AMQPConnectionError(f"malformed: {error}"))
            self.abort()
            return
        now = self._loop.time()
        if rest:
            self._quiet_since = now
            self._aiormq.feed_data(rest)
        elif now - self._quiet_since > HEARTBEAT_SECONDS:
            self._quiet_since = now
            self._aiormq.feed_data(HEARTBEAT)

    def abort(self) -> None:
        if self._socket:
            self._socket.abort()

    def send(self, channel: int, method: Frame) -> None:
        """Write a method on one of our channels, between aiormq's frames."""
        if self._socket and not self._socket.is_closing():
            self._socket.write(marshal(method, channel))

    def pause(self) -> None:
        """Stop reading until `resume`, because too much is held in memory."""
        if self._socket and not self._paused:
            self._paused = True
            self._socket.pause_reading()
            self._keep_alive()

    def resume(self) -> None:
        if self._socket and self._paused:
            self._paused = False
            self._socket.resume_reading()

    def _keep_alive(self) -> None:
        """Feed aiormq heartbeats while we do not read: the silence is ours, not the broker's."""
        if self._paused and self._socket and not self._socket.is_closing():
            self._aiormq.feed_data(HEARTBEAT)
            self._loop.call_later(HEARTBEAT_SECONDS, self._keep_alive)


class Tapping(TransportFactory):
    """A factory of aiormq's transport with a tap in it; ``protocol`` is set once it is connected."""

    def __init__(self) -> None:
        self.protocol: TappedProtocol | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = kwargs.pop("ssl_context_provider")
        context: tls.SSLContext | None = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = TappedProtocol(reader, loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, str(url.host), int(url.port or 0), ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.protocol = protocol
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
