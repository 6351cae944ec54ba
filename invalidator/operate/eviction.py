"""Evicting keys by hand: as events to every cluster, or directly on this configuration's own nodes."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

from invalidator.errors import PoisonError
from invalidator.events import EVICT, Event
from invalidator.operate.placement import addresses
from invalidator.operate.publishing import Message, message
from invalidator.settings import LimitSettings, Settings
from invalidator.worker.parts import cluster_of, rules_of


class NodeOutcome(Struct, frozen=True):
    """What one node confirmed, and what it did not."""

    node: str
    address: str
    #: Keys.
    evicted: int
    unconfirmed: int
    #: Why keys are not confirmed; they may or may not be gone there.
    reason: str | None = None


def checked_keys(settings: Settings, keys: Iterable[tuple[str, str]]) -> list[bytes]:
    """The distinct keys, in order, each given with where it comes from ("line 7").

    Raises:
        PoisonError: one is no key; the message names it and where it comes from.
    """
    rules = rules_of(settings)
    distinct: dict[bytes, None] = {}
    for where, key in keys:
        try:
            distinct |= dict.fromkeys(rules.keys(Event(EVICT, {"keys": [key]})))
        except PoisonError as error:
            raise PoisonError(error.reason, f"{where}: {error}") from error
    return list(distinct)


def eviction_events(keys: Sequence[bytes], limits: LimitSettings) -> Iterator[Message]:
    """The keys as `cache_evict` events, as few as the limits allow."""
    names: list[str] = []
    room = limits.body_bytes - _size([])
    for key in keys:
        name = key.decode("ascii")
        # In a list each name but the first has a comma before it, which the first leaves to spare.
        size = len(msgspec.json.encode(name)) + 1
        if names and (size > room or len(names) == limits.event_keys):
            yield _event(names, limits)
            names, room = [], limits.body_bytes - _size([])
        names.append(name)
        room -= size
    if names:
        yield _event(names, limits)


async def evict_directly(settings: Settings, keys: Sequence[bytes]) -> list[NodeOutcome]:
    """Delete the keys on this configuration's nodes, without a broker; nodes that own none of them are left out."""
    cluster, known = cluster_of(settings), addresses(settings)
    try:
        outcome = await cluster.evict(keys)
    finally:
        await cluster.close()
    reached = [label for label in cluster.labels if label in outcome.evicted or label in outcome.unreachable]
    return [
        NodeOutcome(
            label,
            known[label],
            evicted=outcome.evicted.get(label, 0),
            unconfirmed=len(failure.keys) if (failure := outcome.unreachable.get(label)) else 0,
            reason=failure.reason if failure else None,
        )
        for label in reached
    ]


def _event(names: list[str], limits: LimitSettings) -> Message:
    return message(EVICT, {"keys": names}, limit=limits.body_bytes)


def _size(names: list[str]) -> int:
    return len(msgspec.json.encode({"type": EVICT, "keys": names}))
