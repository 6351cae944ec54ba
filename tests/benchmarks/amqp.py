"""AMQP 0-9-1 by hand over a blocking socket: nothing between the numbers and the broker."""

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from pamqp import base, commands, frame, header
from pamqp.constants import FRAME_END_CHAR

#: Bytes before a frame's payload (type, channel, size), and with the byte behind it.
HEAD, AROUND = 7, 8
CHANNEL = 1
PREFETCH = 2000
#: Bytes read from the socket at once.
READ = 1 << 18
#: Frames published in one write.
TOGETHER = 500


class Connection:
    """One connection with one channel."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self.socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._expect(commands.Connection.Start)
        login = f"\0{parts.username}\0{parts.password}"
        self._send(0, commands.Connection.StartOk({}, "PLAIN", login, "en_US"))
        tune = self._expect(commands.Connection.Tune)
        # No heartbeats: a client that only counts has no time for them.
        self._send(0, commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
        self._send(0, commands.Connection.Open(unquote(parts.path[1:]) or "/"))
        self._expect(commands.Connection.OpenOk)
        self.call(commands.Channel.Open(), commands.Channel.OpenOk)

    def call(self, method: base.Frame, answer: type[base.Frame]) -> Any:
        """Send a method and return the answer."""
        self._send(CHANNEL, method)
        return self._expect(answer)

    def consume(self, queue: str, *, prefetch: int = PREFETCH, no_ack: bool = False) -> bytes:
        """Start a consumer; return the bytes that follow the frame header of each of its deliveries."""
        self.call(commands.Basic.Qos(prefetch_count=prefetch), commands.Basic.QosOk)
        ok = self.call(commands.Basic.Consume(queue=queue, no_ack=no_ack), commands.Basic.ConsumeOk)
        tag = str(ok.consumer_tag).encode()
        return b"\x00\x3c\x00\x3c" + bytes([len(tag)]) + tag

    def reads(self) -> Iterator[bytes]:
        """Yield the bytes that the broker sends, read by read, from the first one that `call` has not used."""
        self.socket.settimeout(None)
        if self._unread:
            yield self._unread
        while data := self.socket.recv(READ):
            yield data

    def publish(self, messages: Iterable[bytes]) -> None:
        """Send messages (see `messages.Template`) as fast as the broker takes them; wait until it has them all."""
        together: list[bytes] = []
        for message in messages:
            together.append(message)
            if len(together) == TOGETHER:
                self.socket.sendall(b"".join(together))
                together.clear()
        self.socket.sendall(b"".join(together))
        self.be_read()

    def be_read(self) -> None:
        """Wait until the broker has handled all that was sent. It loses the rest when the connection closes."""
        self.call(commands.Basic.Qos(prefetch_count=PREFETCH), commands.Basic.QosOk)

    def ready(self, queue: str) -> int:
        """Return the number of messages that wait in a queue."""
        ok = self.call(commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)
        return int(ok.message_count)

    def consumers(self, queue: str) -> int:
        ok = self.call(commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)
        return int(ok.consumer_count)

    def close(self) -> None:
        self.socket.close()

    def _send(self, channel: int, method: base.Frame) -> None:
        self.socket.sendall(frame.marshal(method, channel))

    def _expect(self, answer: type[base.Frame]) -> Any:
        """Read the next method, which must be `answer`."""
        while True:
            used, _, received = frame.unmarshal(self._unread) if self._is_whole() else (0, 0, None)
            self._unread = self._unread[used:]
            if isinstance(received, answer):
                return received
            if used:
                raise ConnectionError(f"the broker answered {received!r} instead of {answer.__name__}")
            if not (data := self.socket.recv(READ)):
                raise ConnectionError(f"the broker closed the connection instead of {answer.__name__}")
            self._unread += data

    def _is_whole(self) -> bool:
        size = int.from_bytes(self._unread[3:7], "big")
        return len(self._unread) >= HEAD and len(self._unread) >= size + AROUND


def ack(tag: int) -> bytes:
    """Return a frame that acknowledges everything up to a delivery tag."""
    return frame.marshal(commands.Basic.Ack(tag, multiple=True), CHANNEL)


def message(properties: commands.Basic.Properties, body: bytes, *, exchange: str, routing_key: str = "") -> bytes:
    """Return the frames that publish a message. Its body must fit one frame."""
    head = header.ContentHeader(body_size=len(body), properties=properties)
    body_frame = b"\x03" + CHANNEL.to_bytes(2, "big") + len(body).to_bytes(4, "big") + body + FRAME_END_CHAR
    return b"".join(
        [
            frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), CHANNEL),
            frame.marshal(head, CHANNEL),
            body_frame,
        ]
    )


def split(data: bytes, handle: Callable[[int, bytes], None]) -> bytes:
    """Call `handle` with the type and payload of each whole frame; return the remaining bytes."""
    at, end = 0, len(data)
    while end - at > HEAD:
        stop = at + HEAD + int.from_bytes(data[at + 3 : at + HEAD], "big")
        if stop >= end:
            break
        handle(data[at], data[at + HEAD : stop])
        at = stop + 1
    return data[at:]
