"""Settling the debt of a node that is gone for good: its keys on today's nodes, then its parking queue deleted.

parking queue of the gone node ─> keys ─> evict on today's nodes (fence) ─> ack … ─> empty ─> delete the queue
"""

from msgspec import Struct

from invalidator.assemble import cluster_of
from invalidator.broker.address import connection_name
from invalidator.broker.connection import in_our_words, raw_channel
from invalidator.broker.messages import read_debt
from invalidator.broker.session import Session
from invalidator.broker.subscription import Batch
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, UnconfirmedError
from invalidator.memcached.cluster import Cluster
from invalidator.settings import Settings
from invalidator.worker.drainer import IDLE_SECONDS, PREFETCH


class Retirement(Struct, frozen=True):
    """What became of a gone node's debt."""

    node: str
    queue: str
    #: Whether there was a queue at all.
    found: bool
    #: Keys evicted on today's nodes.
    keys: int = 0


async def retired(settings: Settings, label: str) -> Retirement:
    """Settle what the node was owed, and delete its parking queue.

    Raises:
        ConfigurationError: the node is still one of this configuration's.
        UnconfirmedError: one of today's nodes did not confirm; the rest of the debt is still parked.
        PoisonError: a debt that this version cannot read; nothing of it is acknowledged.
        UnreachableError, RefusedError: there is no broker, or it says no.
    """
    if label in settings.nodes():
        raise ConfigurationError(f'"{label}" is a node of this configuration: take it out of ring.nodes first')
    queue = Topology.of(settings).parked(label)
    session = await Session.open(settings.broker, name=connection_name("topology retire", settings.cluster))
    cluster = cluster_of(settings)
    try:
        if await session.inspect(queue) is None:
            return Retirement(label, queue, found=False)
        keys = 0
        while waiting := await session.inspect(queue):
            if waiting[0] == 0:
                break
            keys += await _settle(session, queue, cluster)
        async with in_our_words(f'deleting the queue "{queue}"'):
            await (await raw_channel(session.connection)).queue_delete(queue)
        return Retirement(label, queue, found=True, keys=keys)
    finally:
        await cluster.close()
        await session.close()


async def _settle(session: Session, queue: str, cluster: Cluster) -> int:
    subscription = await session.subscribe(queue, tag="invalidator.retire", prefetch=PREFETCH)
    keys = 0
    try:
        while batch := await subscription.batch_within(IDLE_SECONDS, PREFETCH):
            keys += await _evict(batch, cluster)
            await subscription.settle(batch)
    finally:
        await subscription.close()
    return keys


async def _evict(batch: Batch, cluster: Cluster) -> int:
    """A flush that was owed needs nothing more: what was on the gone node went with it."""
    debts = [read_debt(delivery.body) for delivery in batch.deliveries]
    keys = list(dict.fromkeys(key.encode("ascii") for debt in debts for key in debt.keys))
    outcome = await cluster.evict(keys)
    if outcome.unreachable:
        reasons = "; ".join(f"{label}: {debt.reason}" for label, debt in outcome.unreachable.items())
        raise UnconfirmedError(f"not all of today's nodes confirmed ({reasons}): try again when they answer")
    return len(keys)
