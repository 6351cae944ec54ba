"""A memcached node on loopback that answers as its script says, and remembers what it truly confirmed.

It understands only what an evicting connection may send: deletes without reply, and the fence. Anything else that
arrives is a bug of ours, and fails the test. Around it: a `Node` to connect to it, and the answers of a bad node.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from invalidator.memcached.breaker import State
from invalidator.memcached.node import Node
from invalidator.settings import Address

DELETE = re.compile(rb"delete ([\x21-\x7e\x80-\xff]{1,250}) noreply\r\n")
FENCE = re.compile(rb"md invalidator\xc2\xb7fence O(\d{1,32})\r\n")


@dataclass
class Batch:
    """The deletes up to a fence, and the fence: read whole before the script is asked."""

    keys: list[bytes]
    number: bytes

    @property
    def missed(self) -> bytes:
        return b"NF O" + self.number + b"\r\n"

    @property
    def hit(self) -> bytes:
        return b"HD O" + self.number + b"\r\n"


@dataclass
class Peer:
    """One connection as the node sees it."""

    writer: asyncio.StreamWriter
    received: bytes = b""
    sent: bytes = b""
    batches: list[Batch] = field(default_factory=list)

    async def send(self, data: bytes) -> None:
        self.sent += data
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()

    def confirmed(self) -> list[Batch]:
        """Return the batches whose answers, and nothing else, were sent here so far, in order."""
        rest, confirmed = self.sent, []
        for batch in self.batches:
            if not rest.startswith((batch.missed, batch.hit)):
                break
            rest = rest[len(batch.missed) :]
            confirmed.append(batch)
        return confirmed


Answer = Callable[[Peer, Batch], Awaitable[None]]


async def confirm(peer: Peer, batch: Batch) -> None:
    """Answer as a healthy node does."""
    await peer.send(batch.missed)


async def say_nothing(peer: Peer, batch: Batch) -> None:
    """Do nothing, as a hung node does."""


def say(data: bytes) -> Answer:
    """Return an answer that sends this, whatever was asked."""

    async def answer(peer: Peer, batch: Batch) -> None:
        await peer.send(data)

    return answer


class ScriptedNode:
    """Answers the first fences by ``script``, later ones like a healthy node, over all its connections."""

    def __init__(
        self,
        script: Iterable[Answer] = (),
        *,
        greeting: bytes = b"",
        then: Answer = confirm,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._host, self._port = host, port
        self.peers: list[Peer] = []
        self._script = iter(script)
        self._greeting = greeting
        self._then = then
        self._server: asyncio.Server | None = None
        #: A fence was read; for tests that wait for one.
        self.asked = asyncio.Event()
        self.failure: Exception | None = None

    @property
    def address(self) -> tuple[str, int]:
        assert self._server
        host, port = self._server.sockets[0].getsockname()
        return host, port

    @property
    def batches(self) -> list[Batch]:
        return [batch for peer in self.peers for batch in peer.batches]

    def confirmed(self) -> list[Batch]:
        return [batch for peer in self.peers for batch in peer.confirmed()]

    async def __aenter__(self) -> "ScriptedNode":
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self._server
        self._server.close()
        for peer in self.peers:
            peer.reset()
        await asyncio.sleep(0)
        if self.failure and kind is None:
            raise self.failure

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer)
        self.peers.append(peer)
        if self._greeting:
            await peer.send(self._greeting)
        try:
            await self._answer_all(reader, peer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        except AssertionError as error:
            self.failure = error
        finally:
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        keys: list[bytes] = []
        while True:
            line = await reader.readuntil(b"\n")
            peer.received += line
            if delete := DELETE.fullmatch(line):
                keys.append(delete[1])
                continue
            fence = FENCE.fullmatch(line)
            assert fence, f"the node read {line!r}"
            batch = Batch(keys, fence[1])
            keys = []
            peer.batches.append(batch)
            self.asked.set()
            await next(self._script, self._then)(peer, batch)


class Gate:
    """Stands in for the sleep between probes: no probe gets past it before `open` is set."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.open = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await self.open.wait()
        # A probe that fails comes straight back here; others get their turn first.
        await asyncio.sleep(0)


class Changes:
    """The changes that a node reported, and a way to wait for its return."""

    def __init__(self) -> None:
        #: Label, whether the breaker is open, and why.
        self.seen: list[tuple[str, bool, str]] = []
        self.back = asyncio.Event()

    def __call__(self, label: str, state: State) -> None:
        self.seen.append((label, state.is_open, state.reason))
        if not state.is_open:
            self.back.set()


@asynccontextmanager
async def node_at(address: tuple[str, int], **options: Any) -> AsyncIterator[Node]:
    defaults: dict[str, Any] = {"deadline": 10.0, "sleep": Gate().sleep}
    node = Node("n1", Address(*address), **defaults | options)
    try:
        yield node
    finally:
        await node.close()


def refused_address() -> tuple[str, int]:
    """Return an address on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host, port = unused.getsockname()
        return host, port


async def reset(peer: Peer, batch: Batch) -> None:
    peer.reset()


async def close(peer: Peer, batch: Batch) -> None:
    peer.close()


async def half_then_close(peer: Peer, batch: Batch) -> None:
    await peer.send(batch.missed[:9])
    peer.close()


async def another_number(peer: Peer, batch: Batch) -> None:
    await peer.send(b"NF O%d\r\n" % (int(batch.number) + 1))


async def stray_line_first(peer: Peer, batch: Batch) -> None:
    await peer.send(b"DELETED\r\n" + batch.missed)


async def twice(peer: Peer, batch: Batch) -> None:
    await peer.send(batch.missed * 2)


async def stored(peer: Peer, batch: Batch) -> None:
    """Answer as if the reserved key had been stored."""
    await peer.send(batch.hit)


async def drips(peer: Peer, batch: Batch) -> None:
    for byte in batch.missed:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0)


async def slow_drips(peer: Peer, batch: Batch) -> None:
    for byte in batch.missed:
        await peer.send(bytes([byte]))
        await asyncio.sleep(0.02)


WRONG: list[Answer] = [
    reset,
    close,
    half_then_close,
    another_number,
    stray_line_first,
    say(b"SERVER_ERROR out of memory\r\n"),
    say(b"ERROR\r\n"),
    say(b"\x80\x81 garbage"),
    say(b"\r\n"),
]
