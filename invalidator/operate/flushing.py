"""Emptying nodes one by one, paced: the mend after a gap, when nobody knows which keys are stale."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from invalidator.errors import ConfigurationError
from invalidator.memcached.eviction import Evicted
from invalidator.operate.eviction import NodeOutcome
from invalidator.operate.placement import addresses
from invalidator.settings import Settings
from invalidator.worker.parts import cluster_of


def chosen(settings: Settings, labels: Sequence[str]) -> list[str]:
    """The labels, or all of this configuration's nodes where none are given.

    Raises:
        ConfigurationError: there is no such node.
    """
    known = addresses(settings)
    for label in labels:
        if label not in known:
            raise ConfigurationError(f'there is no node "{label}" in this configuration: known are {", ".join(known)}')
    return list(labels) or list(known)


async def flushed(settings: Settings, labels: Sequence[str], *, pause: float) -> AsyncIterator[NodeOutcome]:
    """Flush the nodes in turn, ``pause`` seconds apart, so that the database never has to refill them all at once."""
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
