"""A memcached node on loopback that answers as its script says, and remembers what it truly confirmed.

It understands just what an evicting connection may send: deletes without reply, and the fence. Whatever else arrives
is an error of ours, and fails the test.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType

DELETE = re.compile(rb"delete ([\x21-\x7e]{1,250}) noreply\r\n")
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
        """The batches whose answers, and nothing else, were sent here so far, in order."""
        rest, confirmed = self.sent, []
        for batch in self.batches:
            if not rest.startswith((batch.missed, batch.hit)):
                break
            rest = rest[len(batch.missed) :]
            confirmed.append(batch)
        return confirmed


Answer = Callable[[Peer, Batch], Awaitable[None]]


async def confirm(peer: Peer, batch: Batch) -> None:
    """What a healthy node does."""
    await peer.send(batch.missed)


async def say_nothing(peer: Peer, batch: Batch) -> None:
    """A hung node."""


def say(data: bytes) -> Answer:
    """Answer this, whatever was asked."""

    async def answer(peer: Peer, batch: Batch) -> None:
        await peer.send(data)

    return answer


class ScriptedNode:
    """Answers the first fences by ``script``, later ones like a healthy node, over all its connections."""

    def __init__(self, script: Iterable[Answer] = (), *, greeting: bytes = b"", then: Answer = confirm) -> None:
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
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
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
