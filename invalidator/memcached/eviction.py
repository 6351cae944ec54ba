"""One batch on one node, from its chunks to its outcome: evicted, or unreachable."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from invalidator.memcached.wire import Chunk


@dataclass(frozen=True, slots=True)
class Evicted:
    """The node confirmed every delete."""

    keys: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The node did not confirm these keys; they may or may not be gone there, and are owed."""

    #: Logical keys: all those of every chunk that was not confirmed, whole.
    keys: tuple[bytes, ...]
    reason: str
    #: False if the node was known to be down, so that nothing was sent and nobody waited.
    waited: bool
    #: Keys of this batch that the node had confirmed before.
    evicted: int = 0


Answer = Evicted | Unreachable


class Eviction:
    """Counts a batch's confirmations; a node confirms its chunks strictly in order."""

    def __init__(self, chunks: Sequence[Chunk], future: "asyncio.Future[Answer]") -> None:
        self._chunks = chunks
        self._confirmed = 0
        self.future = future

    def confirm(self) -> None:
        """The next chunk was confirmed."""
        self._confirmed += 1
        if self._confirmed == len(self._chunks):
            self._settle(Evicted(_count(self._chunks)))

    def fail(self, reason: str, *, waited: bool) -> None:
        """Whatever is not confirmed yet never will be."""
        evicted, owed = self._chunks[: self._confirmed], self._chunks[self._confirmed :]
        keys = tuple(key for chunk in owed for key in chunk.keys)
        self._settle(Unreachable(keys, reason, waited, _count(evicted)))

    def _settle(self, answer: Answer) -> None:
        # Done already when the caller was cancelled meanwhile; the deletes do no harm.
        if not self.future.done():
            self.future.set_result(answer)


def _count(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.keys) for chunk in chunks)
