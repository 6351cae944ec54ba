"""Heals gaps: the events that a lost queue did not store are read from the log, and evicted like any others.

    open gap ─> mark ─> log, from 2 s before its beginning to the mark ─> pipeline of its own ─> healed, or not covered
        └───────────── held until that is stored, or given back if this worker dies ───────────────────────┘

Rules of this file:

1. A gap is healed when every event up to the mark is settled as rule 1 of pipeline.py says: evicted and confirmed by
   every node, or parked, or a dead letter. Only then is it reported, and only after that cleared.
2. A gap that is not cleared is healed again, by any worker, from its beginning. Evicting twice is harmless. What
   several workers find within a second is one gap, and of what they find later only the rest is read.
3. New events flow meanwhile: the log has a connection and a pipeline of its own, and its rate is limited.
4. A log that does not reach back to the beginning of a gap, or has a hole in it, heals the rest. The gap then stays, as
   "not covered".
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime

from invalidator.broker.address import connection_name
from invalidator.broker.consume.session import Session
from invalidator.broker.event_log import Hole, beginning, log_session, offset_of, put_mark, wanted
from invalidator.broker.gap import Gap, Healing
from invalidator.broker.gaps import remember_gap
from invalidator.broker.open_gaps import OpenGaps, open_gaps
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError, UnreachableError
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import BrokerSettings
from invalidator.worker.log_intake import LogIntake
from invalidator.worker.pipeline import Pipeline
from invalidator.worker.reporting import report_healing

#: Seconds between two inspections of the queue of gaps.
INSPECT_SECONDS = 0.5
#: Seconds after which gaps are read again although their number is the same.
LOOK_SECONDS = 10
#: Seconds in which the other workers of the cluster find the same gap, so that the log is read once for all of them.
GATHER_SECONDS = 1.0

log = Log(__name__)


class Healer:
    """The healing of one worker, one gap at a time."""

    def __init__(
        self,
        session: Callable[[], Session | None],
        broker: Callable[[], BrokerSettings],
        topology: Topology,
        publisher: ConfirmedPublisher,
        pipeline: Callable[[LogIntake], Pipeline],
        *,
        rate: int,
        batch_events: int,
    ) -> None:
        #: The consuming session, while there is one: gaps are only read and acknowledged through it.
        self._session = session
        self._broker = broker
        self._topology = topology
        self._publisher = publisher
        self._pipeline = pipeline
        self._rate = rate
        self._batch_events = batch_events
        self._outage = Outage(log.warning, "cannot read the log of events; gaps are not healed until it can")
        #: The session and the number of stored gaps at the last look, after which nothing was open.
        self._nothing_open: tuple[object, ...] = ()
        #: The gap that was open at the last look, and when it was seen first.
        self._gathering: tuple[Gap | None, float] = None, 0.0
        #: The session for which a mark was put into the log.
        self._marked: Session | None = None
        #: The gap that is being healed, and the events read so far, in words; empty while nothing is open.
        self.doing = ""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INSPECT_SECONDS)
            if session := self._session():
                try:
                    await self._heal_what_is_open(session)
                    self._outage.ends()
                except InvalidatorError as error:
                    self._outage.lasts(str(error))
                finally:
                    self.doing = ""

    async def _heal_what_is_open(self, session: Session) -> None:
        if self._marked is not session:
            await put_mark(self._publisher, self._topology, session.log_seen_at, missed_since=session.missed_since)
            self._marked, session.missed_since = session, None
        found = await session.inspect(self._topology.gaps)
        seen = session, found and found[0], time.monotonic() // LOOK_SECONDS
        if not (found and found[0]) or self._nothing_open == seen:
            return
        async with open_gaps(session.connection, self._topology) as gaps:
            await gaps.clear_covered()
            if gaps.gap is None:
                # Another reader may hold some of them, and these may be open.
                self._nothing_open = seen if gaps.read >= found[0] else ()
            elif self._has_gathered(gaps.gap):
                await self._heal(gaps, gaps.gap)

    def _has_gathered(self, gap: Gap) -> bool:
        """Return True once a gap was there for a while, and no worker has made it longer."""
        now = time.monotonic()
        if gap != self._gathering[0]:
            self._gathering = gap, now
        return gap.is_asked_for or now - self._gathering[1] >= GATHER_SECONDS

    async def _heal(self, gaps: OpenGaps, gap: Gap) -> None:
        try:
            healed = replace(gap, healing=await self._healing(gap))
        except InvalidatorError:
            metrics.LAST_GAP.set(time.time())  # until it can be healed, an operator has to know
            raise
        await remember_gap(self._publisher, self._topology, healed)
        await gaps.clear()
        report_healing(healed)

    async def _healing(self, gap: Gap) -> Healing:
        """Read the log from the gap's beginning to now, and settle all of it."""
        started, read_at = time.monotonic(), datetime.now(UTC)
        mark = await put_mark(self._publisher, self._topology)
        name = connection_name("worker", self._topology.cluster, "heals")
        async with log_session(self._broker(), self._topology.log, name) as session:
            intake = LogIntake(mark=mark, rate=self._rate, batch_events=self._batch_events, is_wanted=wanted(gap))
            await intake.open(session, self._topology.log, offset_of(gap.since))
            begins = await beginning(session, self._topology.log)
            self.doing = f"healing the gap {gap} from the log"
            log.info("healing the gap from the log", gap=str(gap))
            await self._pipeline(intake).run()
        if intake.failure:
            raise UnreachableError(f"reading the log ended early: {intake.failure}")
        begins_later = None if begins.is_before(gap.since, intake.first) else begins.at or read_at
        seconds = time.monotonic() - started
        return Healing(intake.events, seconds, read_at, begins_later, missed_within(gap, intake.holes))


def missed_within(gap: Gap, holes: Iterable[Hole]) -> tuple[datetime, datetime] | None:
    """Return the time from the first to the last hole of the log within a gap. Pure."""
    within = [hole for hole in holes if hole.since <= gap.until and (gap.since is None or hole.until >= gap.since)]
    if not within:
        return None
    return min(hole.since for hole in within), max(hole.until for hole in within)
