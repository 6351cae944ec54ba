"""One batch on one node, from its chunks to its answer: evicted, or unreachable."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from invalidator.memcached.failure import Failure
from invalidator.memcached.wire import Chunk


@dataclass(frozen=True, slots=True)
class Evicted:
    """The node confirmed every delete."""

    keys: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The node did not confirm these keys. They may or may not be gone there, so they must be evicted again."""

    #: The logical keys of every chunk that was not confirmed, all of them.
    keys: tuple[bytes, ...]
    reason: str
    #: False if the node was known to be down, so that nothing was sent and nothing waited.
    waited: bool
    #: Number of this batch's keys that the node had confirmed before.
    evicted: int = 0
    failure: Failure = Failure.BROKEN


Answer = Evicted | Unreachable


class Eviction:
    """A batch on its way to one node. Counts its confirmations: a node confirms chunks strictly in order."""

    def __init__(self, chunks: Sequence[Chunk], future: "asyncio.Future[Answer]") -> None:
        self._chunks = chunks
        self._confirmed = 0
        self.future = future

    def confirm(self) -> None:
        """Count the next chunk as confirmed; after the last one, the batch is evicted."""
        self._confirmed += 1
        if self._confirmed == len(self._chunks):
            self._settle(Evicted(_count(self._chunks)))

    def fail(self, failure: Failure, reason: str, *, waited: bool) -> None:
        """Give up every chunk that is not confirmed yet."""
        confirmed, rest = self._chunks[: self._confirmed], self._chunks[self._confirmed :]
        keys = tuple(key for chunk in rest for key in chunk.keys)
        self._settle(Unreachable(keys, reason, waited, _count(confirmed), failure))

    def _settle(self, answer: Answer) -> None:
        # Done already if the caller was cancelled meanwhile; the deletes do no harm.
        if not self.future.done():
            self.future.set_result(answer)


def _count(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.keys) for chunk in chunks)
