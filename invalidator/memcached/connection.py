"""One connection to one memcached node: chunks out, confirmations in, and nothing else.

Rules of this file:

1. A chunk is confirmed only by its own fence's answer, as the very next bytes, in the order in which chunks were sent.
2. Anything else (another byte, a byte while nothing is outstanding, a close by the node, an error) ends the connection
   at once. Nothing is read after that, so a late answer cannot confirm a later chunk.
3. A chunk that was not confirmed stays in ``outstanding``, and the owner of the connection sends it again or gives up.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol, cast

from invalidator.memcached.eviction import Eviction
from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import Chunk, refusal


@dataclass(slots=True)
class Sending:
    """A chunk on its way to a node, for one eviction."""

    chunk: Chunk
    eviction: Eviction
    #: Number of connections that it was written to.
    tries: int = 0


class Owner(Protocol):
    """The owner of a connection: notified of each confirmation, and once of the end."""

    def confirmed(self, sending: Sending) -> None: ...

    def broken(self, connection: "Connection", failure: Failure, reason: str) -> None: ...


class Connection(asyncio.Protocol):
    """The strict fence on the wire. asyncio itself sets TCP_NODELAY on every TCP socket."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self.outstanding: deque[Sending] = deque()
        #: Why the connection ended; empty while it is open.
        self.ended = ""
        #: The same in one word.
        self.failure = Failure.BROKEN

    def send(self, sending: Sending) -> None:
        """Write the chunk, deletes and fence in one piece; on an ended connection only keep it as outstanding."""
        self.outstanding.append(sending)
        if self._transport and not self.ended:
            self._transport.write(sending.chunk.request)

    def abort(self, reason: str, failure: Failure = Failure.BROKEN) -> None:
        """End the connection now, even if bytes are still unsent or unread, and notify the owner once."""
        if self.ended:
            return
        self.ended, self.failure = reason, failure
        if self._transport:
            self._transport.abort()
        self._owner.broken(self, failure, reason)

    @property
    def peer(self) -> str | None:
        """The IP address at the other end; None without a connection, or on a UNIX socket."""
        name = self._transport.get_extra_info("peername") if self._transport else None
        return str(name[0]) if isinstance(name, tuple) else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.abort(f"connection lost: {error}" if error else "connection closed by the node", Failure.CLOSED)

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        while unread and not self.ended:
            if not self.outstanding:
                self._reject(unread, f"the node sent {unread[:60]!r} unasked")
                break
            missed, hit = self.outstanding[0].chunk.answers
            if unread.startswith((missed, hit)):
                unread = unread[len(missed) :]
                self._owner.confirmed(self.outstanding.popleft())
            elif missed.startswith(unread) or hit.startswith(unread):
                break
            else:
                self._reject(unread, f"the node answered {unread[:60]!r} instead of {missed!r}")
        self._unread = unread

    def _reject(self, answer: bytes, said: str) -> None:
        if refused := refusal(answer):
            failure, meaning = refused
            self.abort(f"{said}: {meaning}", failure)
        else:
            self.abort(said)
