"""What memcached nodes hold, written and read by the hundred: the shop's fills and looks, and the audit at the end.

Straight to the nodes, past the proxies that the workers go through. Nothing here ever gives up waiting for an answer:
a fill that was sent and not answered may still be done when the node thaws, so it has to be waited for. Only the end
of the connection says that it never will be: no node closes one but by dying.
"""

import asyncio
from collections.abc import Iterable, Sequence

#: Keys in one request.
AT_ONCE = 500
#: Keys that no event names: they must be there at the end.
CANARIES = [f"canary:{number}" for number in range(200)]


class NodeGoneError(Exception):
    """Raised when the node's connection ended, or none could be made."""


class Copies:
    """One connection to one node, opened when needed."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        #: Connections made: each is to a node that has just begun, empty.
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

    async def look(self, products: Iterable[int]) -> dict[int, int]:
        """Versions of those products, at most AT_ONCE, that the node holds. Raises `NodeGoneError`."""
        found = await self.values(f"product:{product}" for product in products)
        return {int(key.removeprefix("product:")): int(value) for key, value in found.items()}

    async def values(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Values by key, of those that are there. Raises `NodeGoneError`."""
        lines = (await self._ask(f"get {' '.join(keys)}\r\n".encode(), end=b"END\r\n")).split(b"\r\n")
        return {lines[at].split(b" ")[1].decode(): lines[at + 1] for at in range(0, len(lines) - 2, 2)}

    async def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _ask(self, request: bytes, *, size: int = 0, end: bytes = b"") -> bytes:
        """The next `size` bytes, or all up to and with `end`."""
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
    """As readuntil, but for an `end` that stands at the beginning of a line."""
    answer = b""
    while not (answer == end or answer.endswith(b"\r\n" + end)):
        answer += await reader.readuntil(end)
    return answer


async def audit(address: str, products: int) -> dict[int, int]:
    """Every copy that a node holds: product -> version."""
    copies = Copies(address)
    held: dict[int, int] = {}
    for start in range(0, products, AT_ONCE):
        held |= await copies.look(range(start, min(start + AT_ONCE, products)))
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
