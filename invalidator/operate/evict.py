"""Evicting by hand: keys, checked, and deleted on this configuration's own nodes.

keys ─> checked ─┬─> this configuration's nodes, a thread each, without a broker
                 └─> cache_evict events ─> every cluster (see `eviction_events`)

Nothing here imports a broker's client, asyncio or OpenSSL, so that `evict --direct` starts at once.
"""

import time
from collections.abc import Iterable, Sequence
from threading import Thread
from typing import Any

from msgspec import Struct

from invalidator.app.cache.nodes.blocking_connection import BlockingConnection
from invalidator.app.cache.nodes.protocol import MalformedError
from invalidator.assemble import rules_of
from invalidator.errors import PoisonError, UnreachableError
from invalidator.events.event import EVICT, Event
from invalidator.memcached.access import Access
from invalidator.memcached.holders import Holders
from invalidator.memcached.wire import Chunk, refusal
from invalidator.settings import Address, Settings


class PlacedKey(Struct, frozen=True):
    """A key as the application names it, and the nodes that it is evicted on."""

    key: str
    #: The key in memcached: with `memcached.prefix` before it.
    stored_as: str
    #: Labels.
    nodes: list[str]


class NodeOutcome(Struct, frozen=True):
    """The numbers of keys that one node confirmed and did not confirm."""

    node: str
    address: str
    evicted: int
    unconfirmed: int
    #: Why keys are not confirmed. They may or may not be gone there.
    reason: str | None = None


def checked_keys(settings: Settings, keys: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return the distinct keys, in order. Each is given with its source ("line 7").

    Raises:
        PoisonError: one of them cannot be a key; the message names it and its source.
    """
    rules = rules_of(settings)
    distinct: dict[bytes, None] = {}
    for where, key in keys:
        try:
            distinct |= dict.fromkeys(rules.keys(Event(EVICT, {"keys": [key]})))
        except PoisonError as error:
            raise PoisonError(error.reason, f"{where}: {error}") from error
    return list(distinct)


def placed(settings: Settings, keys: Iterable[bytes]) -> list[PlacedKey]:
    """Return each key with the nodes that this configuration evicts it on."""
    holders, prefix = Holders.of(settings), settings.memcached.prefix
    names = [(key, key.decode()) for key in keys]
    return [PlacedKey(name, prefix + name, list(holders.of_key(key))) for key, name in names]


def evict_directly(settings: Settings, keys: Sequence[bytes]) -> list[NodeOutcome]:
    """Delete the keys on this configuration's nodes, without a broker. Leaves out nodes that own none of them."""
    access, known = Access.of(settings.memcached), settings.nodes()
    evictions = [
        DirectEviction(label, known[label], chunks, access=access, deadline=settings.memcached.deadline)
        for label, chunks in Holders.of(settings).plan(keys)
    ]
    for eviction in evictions:
        eviction.start()
    for eviction in evictions:
        eviction.join()
    return [eviction.outcome() for eviction in evictions]


class DirectEviction(Thread):
    """Deletes chunks on one node, one after the other, each confirmed by its fence. It tries once."""

    def __init__(
        self, label: str, address: Address, chunks: Sequence[Chunk], *, access: Access, deadline: float
    ) -> None:
        super().__init__(daemon=True)  # so that Ctrl-C waits for no node
        self._label, self._address, self._chunks = label, address, chunks
        self._access, self._deadline = access, deadline
        self._evicted = 0
        self._reason: str | None = "given up"

    def run(self) -> None:
        try:
            connection = BlockingConnection.dial(self._address, self._access, self._deadline)
        except (OSError, UnreachableError) as error:
            self._reason = f"cannot connect: {self._access.in_words(error)}"
            return
        try:
            for chunk in self._chunks:
                connection.send(chunk.request)
                connection.receive(Confirmation(chunk, self._deadline))
                self._evicted += len(chunk.keys)
            self._reason = None
        except TimeoutError:
            self._reason = f"no confirmation for {self._deadline:g} s"
        except (OSError, MalformedError) as error:
            self._reason = str(error)
        finally:
            connection.close()

    def outcome(self) -> NodeOutcome:
        unconfirmed = sum(len(chunk.keys) for chunk in self._chunks) - self._evicted
        return NodeOutcome(self._label, str(self._address), self._evicted, unconfirmed, self._reason)


class Confirmation:
    """The reply to a chunk: exactly the answer of its fence, within the deadline, even if it comes byte by byte."""

    def __init__(self, chunk: Chunk, deadline: float) -> None:
        self._chunk = chunk
        self._due = time.monotonic() + deadline
        self._said = b""
        self.answers: list[Any] = []
        self.excess = b""

    def feed(self, data: bytes) -> bool:
        self._said += data
        if self._said in self._chunk.answers:
            return True
        if not any(answer.startswith(self._said) for answer in self._chunk.answers):
            refused = refusal(self._said)
            meaning = f": {refused[1]}" if refused else ""
            raise MalformedError(
                f"the node answered {self._said[:60]!r} instead of {self._chunk.answers[0]!r}{meaning}"
            )
        if time.monotonic() > self._due:
            raise TimeoutError
        return False


def addresses(settings: Settings) -> dict[str, str]:
    """Return label -> "host:port" of every node of the cluster."""
    return {label: str(address) for label, address in settings.nodes().items()}
