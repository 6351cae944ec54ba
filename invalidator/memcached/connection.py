"""One connection to one memcached node: chunks out, confirmations in, and not one byte more.

Rules of this file:

1. A chunk is confirmed only by its own fence's answer, as the very next bytes, in the order in which chunks were sent.
2. Anything else (another byte, a byte while nothing is outstanding, the other side closing, an error) ends the
   connection at once. Nothing is ever read past it: a late answer cannot meet a later chunk.
3. What was not confirmed stays in ``outstanding``; its owner decides what becomes of it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

from invalidator.memcached.eviction import Eviction
from invalidator.memcached.wire import Chunk


@dataclass(slots=True)
class Sending:
    """A chunk on its way to a node, for one eviction."""

    chunk: Chunk
    eviction: Eviction
    #: Connections that it was written to.
    tries: int = 0


class Owner(Protocol):
    """Who is told what became of a connection."""

    def confirmed(self, sending: Sending) -> None: ...

    def broken(self, connection: "Connection", reason: str) -> None: ...


class Connection(asyncio.Protocol):
    """The strict fence on the wire. asyncio sets TCP_NODELAY on every TCP socket by itself."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self.outstanding: deque[Sending] = deque()
        #: Why the connection ended; empty while it is good.
        self.ended = ""

    def send(self, sending: Sending) -> None:
        """Write the chunk, deletes and fence in one piece. On an ended connection it just stays outstanding."""
        self.outstanding.append(sending)
        if self._transport and not self.ended:
            self._transport.write(sending.chunk.request)

    def abort(self, reason: str) -> None:
        """End the connection now, whatever is still unsent or unread; the owner is told once."""
        if self.ended:
            return
        self.ended = reason
        if self._transport:
            self._transport.abort()
        self._owner.broken(self, reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.abort(f"connection lost: {error}" if error else "connection closed by the node")

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        while unread and not self.ended:
            if not self.outstanding:
                self.abort(f"the node sent {unread[:60]!r}, which nobody asked for")
                break
            missed, hit = self.outstanding[0].chunk.answers
            if unread.startswith((missed, hit)):
                unread = unread[len(missed) :]
                self._owner.confirmed(self.outstanding.popleft())
            elif missed.startswith(unread) or hit.startswith(unread):
                break
            else:
                self.abort(f"the node answered {unread[:60]!r} instead of {missed!r}")
        self._unread = unread
