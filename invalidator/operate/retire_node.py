"""Retiring a node that is gone for good: its debt is evicted on today's nodes, then its parking queue is deleted.

parking queue of the gone node ─> keys ─> evict on today's nodes (fence) ─> ack … ─> empty ─> delete the queue
"""

from msgspec import Struct

from invalidator.broker.address import connection_name
from invalidator.broker.connection import in_our_words, raw_channel
from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Batch
from invalidator.broker.messages import read_debt
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, UnconfirmedError
from invalidator.memcached.cluster import Cluster
from invalidator.settings import Settings
from invalidator.worker.drainer import IDLE_SECONDS, PREFETCH


class Retirement(Struct, frozen=True):
    """The result of retiring a node."""

    node: str
    queue: str
    #: False if the node had no parking queue.
    found: bool
    #: Keys evicted on today's nodes.
    keys: int = 0


async def retired(settings: Settings, label: str) -> Retirement:
    """Evict the node's debt on today's nodes, and delete its parking queue.

    Raises:
        ConfigurationError: this configuration still has the node.
        UnconfirmedError: one of today's nodes did not confirm; the rest of the debt is still parked.
        PoisonError: this version cannot read a debt; nothing of it is acknowledged.
        UnreachableError, RefusedError: no broker answers, or it refuses.
    """
    if label in settings.nodes():
        raise ConfigurationError(f'"{label}" is a node of this configuration: remove it from ring.nodes first')
    queue = Topology.of(settings).parked(label)
    session = await Session.open(settings.broker, name=connection_name("topology retire", settings.cluster))
    cluster = Cluster.of(settings)
    try:
        if await session.inspect(queue) is None:
            return Retirement(label, queue, found=False)
        keys = 0
        while waiting := await session.inspect(queue):
            if waiting[0] == 0:
                break
            keys += await _drain(session, queue, cluster)
        async with in_our_words(f'deleting the queue "{queue}"'):
            await (await raw_channel(session.connection)).queue_delete(queue)
        return Retirement(label, queue, found=True, keys=keys)
    finally:
        await cluster.close()
        await session.close()


async def _drain(session: Session, queue: str, cluster: Cluster) -> int:
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
    """Evict the keys of a batch of debts. A parked flush needs nothing more: its items went with the node."""
    debts = [read_debt(delivery.body) for delivery in batch.deliveries]
    keys = list(dict.fromkeys(key.encode() for debt in debts for key in debt.keys))
    outcome = await cluster.evict(keys)
    if outcome.unreachable:
        reasons = "; ".join(f"{label}: {debt.reason}" for label, debt in outcome.unreachable.items())
        raise UnconfirmedError(f"not all of today's nodes confirmed ({reasons}): try again when they answer")
    return len(keys)
