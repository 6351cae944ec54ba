"""The nodes as an auditor asks them: `gets`, and the conditional removal of a stale item.

Each node has one connection, and one exchange at a time on it. A connection on which anything failed is closed, and the
next one has another number: CAS numbers begin again when a node restarts.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from invalidator.app.cache.nodes.protocol import ErrorReply, MalformedError, Numbered, Reply, Retrieval, Storage
from invalidator.audit.sandwich import Answer, Sighting, Unseen
from invalidator.errors import RefusedError, UnreachableError
from invalidator.memcached.access import Access
from invalidator.memcached.dial import dial
from invalidator.memcached.host import LOOKUP_SECONDS, is_name
from invalidator.settings import Address

#: Seconds for which a node that did not answer is not asked again.
COOLDOWN_SECONDS = 1.0
#: The answers to `cas`: True for an item that was replaced.
CAS_ANSWERS = {b"STORED": True, b"EXISTS": False, b"NOT_FOUND": False}
#: Bytes read at once.
PIECE = 65_536

_numbers = itertools.count(1)


class Connection:
    """An open connection to a node."""

    def __init__(self, transport: asyncio.Transport, reader: asyncio.StreamReader) -> None:
        self.number = next(_numbers)
        self.opened_at = time.monotonic()
        self._transport = transport
        self._reader = reader

    @classmethod
    async def open(cls, address: Address, access: Access) -> "Connection":
        """Connect and log in; raises as `dial`."""
        reader = asyncio.StreamReader()
        return cls(await dial(address, access, asyncio.StreamReaderProtocol(reader)), reader)

    @property
    def is_open(self) -> bool:
        return not (self._transport.is_closing() or self._reader.at_eof())

    async def gets(self, key: bytes) -> Numbered | None:
        """Return the item under a key, prefix included. Raises as `_exchange`."""
        found: Numbered | None = await self._exchange(b"gets %b\r\n" % key, Retrieval([key], numbered=True))
        return found

    async def remove(self, key: bytes, found: Numbered) -> bool:
        """Let an item expire at once, if nothing was stored since; return True if it did. Raises as `_exchange`."""
        data, flags = found.item.data, found.item.flags
        command = b"cas %b %d -1 %d %b\r\n%b\r\n" % (key, flags, len(data), found.number, data)
        removed: bool = await self._exchange(command, Storage(CAS_ANSWERS, 1))
        return removed

    async def _exchange(self, command: bytes, reply: Reply) -> Any:
        """Send a command and return its answer.

        Raises:
            UnreachableError: the node gave no answer that can be trusted.
        """
        try:
            self._transport.write(command)
            while not reply.feed(await self._piece()):
                pass
        except (OSError, MalformedError, ErrorReply) as error:
            raise UnreachableError(str(error)) from error
        return reply.answers[0]

    async def _piece(self) -> bytes:
        if piece := await self._reader.read(PIECE):
            return piece
        raise UnreachableError("connection closed by the node")

    def abort(self) -> None:
        self._transport.abort()


class AuditedNode:
    """One node; a failure is an answer, never an exception."""

    def __init__(self, address: Address, access: Callable[[], Access], *, prefix: str, deadline: float) -> None:
        self._address = address
        self._access = access
        self._prefix = prefix.encode()
        self._deadline = deadline
        self._exchanging = asyncio.Lock()
        self._connection: Connection | None = None
        self._down: tuple[float, Unseen] | None = None

    async def gets(self, key: str) -> Answer:
        """Return the key's item."""
        async with self._exchanging:
            found: Answer = await self._guarded(lambda connection: self._gets(connection, key))
            return found

    async def remove(self, key: str, seen: Sighting) -> bool:
        """Remove the item unless another was stored meanwhile; return True if it was removed."""
        async with self._exchanging:
            return await self._guarded(lambda connection: self._remove(connection, key, seen)) is True

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection:
            connection.abort()

    async def _guarded(self, exchange: Callable[[Connection], Any]) -> Any:
        """Return the answer of an exchange, or the reason why there was no answer."""
        if self._down and time.monotonic() < self._down[0]:
            return self._down[1]
        try:
            async with asyncio.timeout(self._deadline):
                found = await exchange(await self._connected())
        except TimeoutError:
            return self._failed(f"no answer within {self._deadline:g} s")
        except (UnreachableError, RefusedError) as error:
            return self._failed(str(error))
        except BaseException:
            self.close()  # with an answer on its way
            raise
        self._down = None
        return found

    async def _connected(self) -> Connection:
        connection = self._connection
        if connection and (not connection.is_open or self._may_have_moved(connection)):
            self.close()
        if self._connection is None:
            self._connection = await Connection.open(self._address, self._access())
        return self._connection

    def _may_have_moved(self, connection: Connection) -> bool:
        return is_name(self._address) and time.monotonic() - connection.opened_at > LOOKUP_SECONDS

    def _failed(self, reason: str) -> Unseen:
        self.close()
        unseen = Unseen(reason)
        self._down = time.monotonic() + COOLDOWN_SECONDS, unseen
        return unseen

    async def _gets(self, connection: Connection, key: str) -> Answer:
        found = await connection.gets(self._prefix + key.encode())
        return found and Sighting(found.item, found.number, connection.number)

    async def _remove(self, connection: Connection, key: str, seen: Sighting) -> bool:
        stored_as = self._prefix + key.encode()
        found = await connection.gets(stored_as)
        return found is not None and found.item == seen.item and await connection.remove(stored_as, found)


class AuditedNodes:
    """All nodes of a cluster, asked at once."""

    def __init__(self, nodes: Mapping[str, Address], access: Callable[[], Access], *, prefix: str, deadline: float):
        self._nodes = {
            label: AuditedNode(address, access, prefix=prefix, deadline=deadline) for label, address in nodes.items()
        }

    @property
    def labels(self) -> Sequence[str]:
        return tuple(self._nodes)

    async def gets(self, key: str, labels: Collection[str] | None = None) -> Mapping[str, Answer]:
        """Return the item on each of these nodes, by default on all of them."""
        asked = self.labels if labels is None else tuple(labels)
        answers = await asyncio.gather(*(self._nodes[label].gets(key) for label in asked))
        return dict(zip(asked, answers, strict=True))

    async def remove(self, key: str, label: str, seen: Sighting) -> bool:
        """Remove an item unless it was replaced meanwhile; return True if it was removed."""
        return await self._nodes[label].remove(key, seen)

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()
