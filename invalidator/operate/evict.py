"""Evicting by hand: keys in every cluster by events, keys on this configuration's own nodes, or whole nodes.

keys ─> checked ─┬─> cache_evict events ─> every cluster
                 └─> this configuration's nodes, without a broker
nodes ─> flushed one by one
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from invalidator.app.publish.message import Message
from invalidator.assemble import cluster_of, rules_of
from invalidator.broker.connection import connected
from invalidator.broker.gaps import clear_gaps
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events.event import EVICT, Event, encode
from invalidator.memcached.eviction import Evicted
from invalidator.operate.publish import message_of
from invalidator.settings import LimitSettings, Settings


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
    cluster, prefix = cluster_of(settings), settings.memcached.prefix
    names = [(key, key.decode()) for key in keys]
    return [PlacedKey(name, prefix + name, list(cluster.placement(key))) for key, name in names]


def eviction_events(keys: Sequence[bytes], limits: LimitSettings) -> Iterator[Message]:
    """Yield the keys in `cache_evict` events, as few as the limits allow."""
    names: list[str] = []
    room = limits.body_bytes - _size([])
    for key in keys:
        name = key.decode()
        # In a list each name but the first has a comma before it, so the first leaves a byte to spare.
        size = len(msgspec.json.encode(name)) + 1
        if names and (size > room or len(names) == limits.event_keys):
            yield _event(names, limits)
            names, room = [], limits.body_bytes - _size([])
        names.append(name)
        room -= size
    if names:
        yield _event(names, limits)


def _event(names: list[str], limits: LimitSettings) -> Message:
    return message_of(encode(EVICT, {"keys": names}), limit=limits.body_bytes)


def _size(names: list[str]) -> int:
    return len(msgspec.json.encode({"type": EVICT, "keys": names}))


async def evict_directly(settings: Settings, keys: Sequence[bytes]) -> list[NodeOutcome]:
    """Delete the keys on this configuration's nodes, without a broker. Leaves out nodes that own none of them."""
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


async def flushed(settings: Settings, labels: Sequence[str], *, pause: float) -> AsyncIterator[NodeOutcome]:
    """Flush the nodes in turn, ``pause`` seconds apart, so that the database never refills all of them at once."""
    cluster, known = cluster_of(settings), addresses(settings)
    try:
        for number, label in enumerate(labels):
            if number:
                await asyncio.sleep(pause)
            answer = await cluster.flush(label)
            reason = None if isinstance(answer, Evicted) else answer.reason
            yield NodeOutcome(label, known[label], evicted=0, unconfirmed=0, reason=reason)
    finally:
        await cluster.close()


async def forget_gaps(settings: Settings, *, until: datetime) -> int:
    """Clear the remembered gaps that had ended before a flush of every node began, and return their number.

    Raises:
        UnreachableError, RefusedError: no broker answers, or this user may not read the gaps.
    """
    async with connected(settings, "flush") as connection:
        return await clear_gaps(connection, Topology.of(settings), until=until)


def chosen(settings: Settings, labels: Sequence[str]) -> list[str]:
    """Return the given labels, or those of all nodes if none are given.

    Raises:
        ConfigurationError: this configuration has no such node.
    """
    known = addresses(settings)
    for label in labels:
        if label not in known:
            raise ConfigurationError(f'there is no node "{label}" in this configuration: known are {", ".join(known)}')
    return list(labels) or list(known)


def addresses(settings: Settings) -> dict[str, str]:
    """Return label -> "host:port" of every node of the cluster."""
    return {label: str(address) for label, address in settings.nodes().items()}
