"""Flushing whole nodes one by one, and the remembered gaps that this fixes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from invalidator.broker.connection import connected
from invalidator.broker.gaps import clear_gaps
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError
from invalidator.memcached.cluster import Cluster
from invalidator.memcached.eviction import Evicted
from invalidator.operate.evict import NodeOutcome, addresses
from invalidator.settings import Settings


async def flushed(settings: Settings, labels: Sequence[str], *, pause: float) -> AsyncIterator[NodeOutcome]:
    """Flush the nodes in turn, ``pause`` seconds apart, so that the database never refills all of them at once."""
    cluster, known = Cluster.of(settings), addresses(settings)
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
