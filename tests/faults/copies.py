"""The contents of memcached nodes, written and read by the hundred: by the shops, and by the audit at the end.

Connections lead straight to the nodes, past the workers' proxies. Nothing here ever gives up waiting for an answer: a
node may still perform an unanswered fill when it thaws. Only the end of the connection proves that it will not, since a
node closes a connection only by dying.
"""

import asyncio
from collections.abc import Iterable, Sequence

#: Keys in one request.
AT_ONCE = 500
#: Keys that no event names. They must still be there at the end.
CANARIES = [f"canary:{number}" for number in range(200)]


class NodeGoneError(Exception):
    """Raised when the connection to the node ended or could not be made."""


class Copies:
    """One connection to one node, opened when needed."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        #: Connections made. Each leads to a node that has just started and is empty.
        self.lives = 0

    async def fill(self, copies: Sequence[tuple[int, int]]) -> None:
        """Store (product, version) pairs, at most AT_ONCE. Raises `NodeGoneError`."""
        await self.store((f"product:{product}", b"%d" % version) for product, version in copies)

    async def store(self, items: Iterable[tuple[str, bytes]]) -> None:
        """Store values by key. Raises `NodeGoneError`."""
        requests = [b"set %s 0 0 %d\r\n%s\r\n" % (key.encode(), len(value), value) for key, value in items]
        stored = b"STORED\r\n" * len(requests)
        answer = await self._ask(b"".join(requests), size=len(stored)) if requests else b""
        if answer != stored:
            raise AssertionError(f"a fill was answered {answer[:200]!r}")

    async def versions(self, products: Iterable[int]) -> dict[int, int]:
        """Return the versions that the node holds of products, at most AT_ONCE. Raises `NodeGoneError`.

        A placeholder of a reader, 32 hexadecimal digits, is no version.
        """
        found = await self.values(f"product:{product}" for product in products)
        return {int(key.removeprefix("product:")): int(value) for key, value in found.items() if len(value) < 32}

    async def values(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values, by key, of the keys that the node holds. Raises `NodeGoneError`."""
        lines = (await self._ask(f"get {' '.join(keys)}\r\n".encode(), end=b"END\r\n")).split(b"\r\n")
        return {lines[at].split(b" ")[1].decode(): lines[at + 1] for at in range(0, len(lines) - 2, 2)}

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _ask(self, request: bytes, *, size: int = 0, end: bytes = b"") -> bytes:
        """Send a request; return the next `size` bytes, or all up to and including `end`."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
                self.lives += 1
            reader, writer = self._streams
            writer.write(request)
            return await (reader.readexactly(size) if size else _read_to(reader, end))
        except (OSError, asyncio.IncompleteReadError) as error:
            await self.close()
            raise NodeGoneError(str(error)) from error


async def _read_to(reader: asyncio.StreamReader, end: bytes) -> bytes:
    """Read like readuntil, but up to an `end` at the beginning of a line."""
    answer = b""
    while not (answer == end or answer.endswith(b"\r\n" + end)):
        answer += await reader.readuntil(end)
    return answer


async def audit(address: str, products: int) -> dict[int, int]:
    """Return every copy that a node holds: product -> version."""
    copies = Copies(address)
    held: dict[int, int] = {}
    for start in range(0, products, AT_ONCE):
        held |= await copies.versions(range(start, min(start + AT_ONCE, products)))
    await copies.close()
    return held


async def set_canaries(address: str) -> None:
    copies = Copies(address)
    await copies.store((key, b"alive") for key in CANARIES)
    await copies.close()


async def missing_canaries(address: str) -> list[str]:
    copies = Copies(address)
    there = await copies.values(CANARIES)
    await copies.close()
    return [key for key in CANARIES if there.get(key) != b"alive"]
