"""Replaying logged events in one cluster: counted here, evicted by the cluster's workers.

    log ─> counted by today's rules                                                      without --yes
    replay asked for ─> invalidator.<cluster>.gaps ─> a worker heals it like a gap ─> how many events, in how long

The workers do it, so that fence, debts, announcements and the limit of the rate are those of any event.
"""

import asyncio
import getpass
import socket
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from invalidator.assemble import rules_of, type_source_of
from invalidator.broker.address import connection_name
from invalidator.broker.connection import connected
from invalidator.broker.declare import exists
from invalidator.broker.event_log import wanted
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remember_gap, remembered_gaps
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import UnconfirmedError, UnreachableError
from invalidator.operate.event_log.reading import reading_log
from invalidator.settings import Settings
from invalidator.worker.planner import Planner

#: Seconds between two looks for the outcome.
LOOK_SECONDS = 0.3


class Replayable(Struct):
    """The logged events of a time, by today's rules."""

    events: int = 0
    #: Distinct keys.
    keys: int = 0
    #: Events that would be dead letters.
    dead: int = 0
    #: The time of the log's first event, if it is later than the beginning that was asked for.
    log_begins: datetime | None = None


def asked_for(since: datetime, until: datetime) -> Gap:
    """Return the gap that asks the workers for a replay."""
    return Gap(since, until, f"replay asked for by {getpass.getuser()} on {socket.gethostname()}", is_asked_for=True)


async def counted(settings: Settings, since: datetime, gap: Gap) -> Replayable:
    """Count the events and keys that a replay would evict, and evict nothing. Raises as `reading_log`."""
    found, keys, is_wanted = Replayable(), set[bytes](), wanted(gap)
    planner = Planner(rules_of(settings), body_bytes=settings.limits.body_bytes, source=type_source_of(settings))
    async with reading_log(settings, since, doing="replay") as log:
        found.log_begins = log.log_begins
        async for batch in log.batches():
            events = list(filter(is_wanted, batch))
            plan = planner.plan(events)
            found.events += len(events)
            found.dead += len(plan.poison)
            keys.update(plan.keys)
    found.keys = len(keys)
    return found


async def replayed(settings: Settings, gap: Gap, *, within: float) -> Gap:
    """Ask the cluster's workers for a replay, and return the gap with its outcome.

    Raises:
        UnconfirmedError: no worker has replayed it in time; one may still do so.
        UnreachableError: there is no log, or no broker answers.
    """
    topology = Topology.of(settings)
    publisher = ConfirmedPublisher(lambda: settings.broker, name=connection_name("replay", settings.cluster))
    async with connected(settings, "replay") as connection:
        if not await exists(connection, topology.log):
            raise UnreachableError(f'there is no queue "{topology.log}": set event_log.enabled on the workers')
        try:
            await remember_gap(publisher, topology, gap)
        finally:
            await publisher.close()
        deadline = datetime.now(UTC) + timedelta(seconds=within)
        while datetime.now(UTC) < deadline:
            for each in await remembered_gaps(connection, topology):
                if each.healing and (each.since, each.until, each.is_asked_for) == (gap.since, gap.until, True):
                    return each
            await asyncio.sleep(LOOK_SECONDS)
    raise UnconfirmedError(
        f"no worker has finished the replay within {within:g} s; it is stored, and the next free worker with "
        "event_log.enabled does it: invalidator status"
    )
