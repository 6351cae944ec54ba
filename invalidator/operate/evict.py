"""Evicting by hand: keys, checked, and deleted on this configuration's own nodes.

keys ─> checked ─┬─> this configuration's nodes, without a broker
                 └─> cache_evict events ─> every cluster (see `eviction_events`)

Nothing here imports a broker's client, so that `evict --direct` starts at once.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from invalidator.assemble import cluster_of, rules_of
from invalidator.errors import PoisonError
from invalidator.events.event import EVICT, Event
from invalidator.settings import Settings


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


def addresses(settings: Settings) -> dict[str, str]:
    """Return label -> "host:port" of every node of the cluster."""
    return {label: str(address) for label, address in settings.nodes().items()}
