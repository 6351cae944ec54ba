"""The kinds of loss: each makes events miss the cluster's queue, and returns once the queue is back.

`expires` of a second or two stands for the minutes after which a real policy deletes a queue without a worker.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.faults.healing.trial import Trial

#: Milliseconds after which a queue without a consumer is deleted.
EXPIRES_MS = 1500
#: Seconds in which events are published although nothing stores them.
AWAY = 1.0
#: Seconds that a worker hangs, long enough for the others to get far ahead of it.
HANGS = 6.0
#: A worker that falls behind as soon as one node hangs, because it waits for the node.
PATIENT: dict[str, Any] = {"broker": {"prefetch": 100}, "memcached": {"deadline": 60.0}}
#: Bytes in an event, and bytes in a log that drops events within a second.
PADDING, SMALL_LOG = 4000, {"event_log": {"max_bytes": 1_000_000}}
#: Bytes in a log that keeps a few seconds of such events, and the seconds in which it drops the first ones.
ROLLING_LOG, ROLLS = {"event_log": {"max_bytes": 24_000_000}}, 15.0


class Struck(NamedTuple):
    """A fault that is over. Times are seconds since 1970."""

    #: From then on, nothing stored the events.
    gone: float
    #: From then on, they are stored and evicted again.
    back: float
    #: Events that were stored before, and were thrown away.
    thrown: int = 0


@dataclass(frozen=True)
class Kind:
    strike: Callable[[Trial], Awaitable[Struck]]
    #: The workers of the cluster. A purge is seen by a cluster's only worker.
    workers: int = 2
    #: Settings of the workers.
    settings: dict[str, Any] = field(default_factory=dict)
    padding: int = 0
    #: True if the events say when they were published.
    stamps: bool = True
    #: True if it strikes the broker, so that no other trial runs beside it.
    is_alone: bool = False
    is_older_than_the_log: bool = False


async def deleted(trial: Trial) -> Struck:
    """Delete the queue, as somebody does in the management UI."""
    gone = await trial.vhost.delete(trial.queue)
    return Struck(gone, await trial.is_back(trial.queue))


async def recreated(trial: Trial) -> Struck:
    """Delete the queue, and declare it at once, before any worker does."""
    gone = await trial.vhost.delete(trial.queue)
    await asyncio.sleep(trial.chance.uniform(0.02, 0.3))
    await trial.declare()
    return Struck(gone, time.time())


async def purged(trial: Trial) -> Struck:
    """Purge the queue while events wait, as somebody does in the management UI."""
    async with trial.falls_behind() as waiting:
        gone = await trial.vhost.delete(trial.queue, "/contents")
    return Struck(gone, time.time(), thrown=waiting())


async def shortened(trial: Trial) -> Struck:
    """Shorten the queue by a policy that drops its oldest events, until somebody notices."""
    async with trial.falls_behind() as waiting:
        gone = time.time()
        await trial.vhost.apply(trial.queue, {"max-length": 10, "overflow": "drop-head"})
        await trial.until(lambda: trial.waits_at_most(10))
        await trial.vhost.apply(trial.queue, {})
    return Struck(gone, time.time(), thrown=waiting() - 10)


async def expired(trial: Trial) -> Struck:
    """Kill all workers, and let the queue expire before they come back."""
    await trial.vhost.apply(trial.queue, {"expires": EXPIRES_MS})
    await asyncio.gather(*(worker.kill_for_good() for worker in trial.workers))
    return await _comes_back(trial)


async def away(trial: Trial) -> Struck:
    """Stop all workers in good order, and let the queue expire before they come back."""
    await trial.vhost.apply(trial.queue, {"expires": EXPIRES_MS})
    await asyncio.gather(*(worker.stop() for worker in trial.workers))
    return await _comes_back(trial)


async def _comes_back(trial: Trial) -> Struck:
    gone = await trial.is_gone(trial.queue)
    await trial.vhost.apply(trial.queue, {})
    await asyncio.sleep(AWAY)
    for worker in trial.workers:
        worker.start()
    return Struck(gone, await trial.is_back(trial.queue))


async def died(trial: Trial) -> Struck:
    """Let one of two workers hang with what it has received, and kill it together with the queue."""
    hung = trial.workers[-1]
    hung.pause()
    await asyncio.sleep(HANGS)
    held = await trial.held()
    gone = await trial.vhost.delete(trial.queue)
    await hung.kill_for_good()
    back = await trial.is_back(trial.queue)
    hung.start()
    return Struck(gone, back, thrown=len(held))


async def killed(trial: Trial) -> Struck:
    """Kill the broker while the workers declare the deleted queue."""
    gone = await trial.vhost.delete(trial.queue)
    await asyncio.sleep(trial.chance.uniform(0.1, 2.0))
    restarting = asyncio.create_task(trial.restart_broker())
    if not trial.has_other_nodes:
        await restarting
    back = await trial.is_back(trial.queue)
    await restarting
    return Struck(gone, back)


async def parking(trial: Trial) -> Struck:
    """Delete the parking queue of a node that hangs, with all of its debts."""
    parked, since = trial.topology.parked("c1"), time.time()
    trial.hang()
    await trial.until(lambda: trial.waits(3, parked))
    gone = await trial.vhost.delete(parked)
    return Struck(since, max(gone, await trial.is_back(parked)))


async def unstamped(trial: Trial) -> Struck:
    """Delete the queue once the log has dropped its first event, and no event says when it was published."""
    await asyncio.sleep(ROLLS)
    return await deleted(trial)


async def older(trial: Trial) -> Struck:
    """Keep the workers away until the log has dropped the first of the missed events."""
    await asyncio.gather(*(worker.stop() for worker in trial.workers))
    gone = await trial.vhost.delete(trial.queue)
    await asyncio.sleep(4 * AWAY)
    for worker in trial.workers:
        worker.start()
    return Struck(gone, await trial.is_back(trial.queue))


KINDS = {
    "deleted": Kind(deleted),
    "purged": Kind(purged, workers=1, settings=PATIENT),
    "expired": Kind(expired),
    "re-created": Kind(recreated),
    "shortened": Kind(shortened, workers=1, settings=PATIENT),
    "away": Kind(away),
    "died": Kind(died),
    "killed": Kind(killed, is_alone=True),
    "parking": Kind(parking, settings={"memcached": {"deadline": 0.5}}),
    "unstamped": Kind(unstamped, settings=ROLLING_LOG, padding=PADDING, stamps=False),
    "older": Kind(older, settings=SMALL_LOG, padding=PADDING, is_older_than_the_log=True),
}
