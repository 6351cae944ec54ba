"""Keeps the tally of the log, in one worker of a cluster at a time: what publishers lost before the log is a gap.

    <cluster>.tally: how far ─> this worker's turn ─> the log, at a limited rate ─> Tally ─> missing ─> gap, stored
            └──────────────────────── stored again after what was found ──────────────────────┘

Rules of this file:

1. The broker gives the messages of the queue to one worker of all that consume it. That worker reads the log until its
   connection is lost, and holds the newest message as long. Then all of them go to another worker.
2. How far the log is judged is stored behind the gaps that were found. A worker that dies in between has its successor
   find them again, which is the same gap.
3. If events come to the log and none to the cluster's queue, the queue has lost its binding (`arrivals.py`). This
   worker or an operator binds it again, and what was missed is a gap that heals from the log.
4. New events flow meanwhile: the log has a connection of its own, and its rate is limited. A tally that falls behind
   says so in a metric.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from invalidator.broker.address import connection_name
from invalidator.broker.consume.arrivals import Arrivals
from invalidator.broker.consume.session import Session
from invalidator.broker.consume.subscription import Batch, Subscription
from invalidator.broker.event_log import log_session, offset_of, put_mark
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import remember_gap
from invalidator.broker.messages import read_own
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology
from invalidator.broker.wire.timestamp import published_at
from invalidator.errors import InvalidatorError, UnreachableError
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import BrokerSettings
from invalidator.worker.reporting import report_missing, report_not_bound
from invalidator.worker.tally import READ_BEFORE, Missing, Tally

#: Seconds between two tries to get the turn.
TRY_SECONDS = 1.0
#: Seconds between two times that it is stored how far the log is judged.
STORE_SECONDS = 10.0
#: Messages of the log that are taken together, and that are held in memory.
TAKEN, PREFETCH = 500, 2000
#: Seconds to wait for a message.
IDLE_SECONDS = 1.0
#: Messages of the queue: one, and for a moment more.
TURNS = 100

log = Log(__name__)


class Judged(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of the log that is judged: up to a message, which was published at a time; None before the first."""

    at: datetime | None = None
    id: str = ""


class TallyKeeper:
    """The tally of one worker: it waits for its turn, and then reads the log."""

    def __init__(
        self,
        session: Callable[[], Session | None],
        broker: Callable[[], BrokerSettings],
        topology: Topology,
        publisher: ConfirmedPublisher,
        *,
        rate: int,
        arrived: Callable[[], object],
        on_gap: Callable[[Gap], None],
    ) -> None:
        """``arrived`` returns another value after each arrival from the cluster's queue."""
        #: The consuming session, while there is one: the queue of the tally is only read and acknowledged through it.
        self._session = session
        self._broker = broker
        self._topology = topology
        self._publisher = publisher
        #: Events a second: half of what healing may take, because this goes on all the time.
        self._rate = max(1, rate // 2)
        self._arrived = arrived
        self._on_gap = on_gap
        self._outage = Outage(log.warning, "cannot read the log of events; losses before it are not noticed meanwhile")
        #: Publishers without numbers that were met; empty while another worker reads the log.
        self.unnumbered: list[str] = []
        #: The log is read up to this time.
        self._read_until: datetime | None = None
        self._is_at_end = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TRY_SECONDS)
            if session := self._session():
                try:
                    await self._take_turn(session)
                    self._outage.ends()
                except InvalidatorError as error:
                    self._outage.lasts(str(error))
                finally:
                    self.unnumbered = []
                    metrics.BOUND.set(1)

    async def _take_turn(self, session: Session) -> None:
        """Wait for the turn, and read the log until a connection is lost."""
        queue = self._topology.tally
        if (found := await session.inspect(queue)) is None:
            raise UnreachableError(f'there is no queue "{queue}"; to make it: invalidator topology declare')
        if found == (0, 0):  # nobody holds a message of it, so none was ever stored, or it was made again
            await self._store(Judged())
        turn = await session.subscribe(queue, tag="tally", prefetch=TURNS)
        try:
            if held := await turn.batch(TURNS):
                async with log_session(self._broker(), self._topology.log, self._name()) as reading:
                    await self._read(reading, session, turn, held)
        finally:
            with suppress(InvalidatorError):
                await turn.close()

    def _name(self) -> str:
        return connection_name("worker", self._topology.cluster, "tallies")

    async def _read(self, session: Session, consuming: Session, turn: Subscription, held: Batch) -> None:
        judged = _newest(held)
        mark = await put_mark(self._publisher, self._topology)
        since = (judged.at or datetime.now(UTC)) - timedelta(seconds=READ_BEFORE)
        reading = await session.subscribe(
            self._topology.log, tag="tally", prefetch=PREFETCH, arguments=offset_of(since)
        )
        log.info("reading the log for what publishers lost before it", since=f"{since:%Y-%m-%dT%H:%M:%SZ}")
        tally, arrivals, store_at = Tally(judged.id, mark), Arrivals(), 0.0
        while not (turn.is_over or reading.is_over):
            before = tally.events
            missing = await self._take_some(reading, tally)
            await self._compare(arrivals, tally.events - before, consuming)
            if missing or (time.monotonic() >= store_at and tally.read != judged.id):
                for each in missing:
                    await self._remember(each)
                judged = Judged(self._read_until, tally.read)
                held = await self._store_behind(judged, turn, held)
                tally.forget_silent()
                store_at = time.monotonic() + STORE_SECONDS
        if reading.lost_its_queue:  # a log that is made again holds nothing of before
            await self._store_behind(Judged(), turn, held)

    async def _take_some(self, reading: Subscription, tally: Tally) -> list[Missing]:
        """Take what was read of the log, as fast as the rate allows."""
        began = time.monotonic()
        if not (batch := await reading.batch_within(IDLE_SECONDS, TAKEN)):
            self._read_until = datetime.now(UTC)
            self._is_at_end = True
            metrics.TALLY_BEHIND.set(0)
            return []
        self._is_at_end = len(batch.deliveries) < TAKEN
        missing = list(tally.take(batch.deliveries))
        self.unnumbered = tally.unnumbered
        if last := published_at(batch.deliveries[-1]):
            self._read_until = min(last, datetime.now(UTC))
            metrics.TALLY_BEHIND.set((datetime.now(UTC) - self._read_until).total_seconds())
        await reading.settle(batch)
        await asyncio.sleep(began + len(batch.deliveries) / self._rate - time.monotonic())
        return missing

    async def _compare(self, arrivals: Arrivals, events: int, session: Session) -> None:
        """Find out if the queue is bound, and bind it again if not."""
        was_bound, since = arrivals.is_bound, arrivals.since
        if not arrivals.has_arrived(self._arrived()):
            waiting, consumers = await session.inspect(self._topology.queue) or (0, 0)
            arrivals.compare(events, is_at_end=self._is_at_end, waiting=waiting, consumers=consumers)
        if was_bound == arrivals.is_bound:
            return
        if not arrivals.is_bound:
            report_not_bound(self._topology)
            if self._broker().declare == "active":
                await session.declare(self._topology)
                arrivals.begin()
        metrics.BOUND.set(arrivals.is_bound)
        self._on_gap(Gap(since, datetime.now(UTC), "the queue was not bound to the exchange"))

    async def _remember(self, missing: Missing) -> None:
        gap = Gap(missing.since, missing.until, str(missing), is_unpublished=True)
        report_missing(gap, missing.count)
        await remember_gap(self._publisher, self._topology, gap)

    async def _store_behind(self, judged: Judged, turn: Subscription, held: Batch) -> Batch:
        """Store how far the log is judged, then let go of what was held; return what is held now."""
        await self._store(judged)
        while newer := await turn.batch_within(IDLE_SECONDS, 1):
            await turn.settle(held)
            held = newer
            if _newest(held) == judged:
                break
        return held

    async def _store(self, judged: Judged) -> None:
        await self._publisher.publish(
            msgspec.json.encode(judged),
            exchange="",
            routing_key=self._topology.tally,
            properties=Properties(content_type="application/json", message_type="tally"),
        )


def _newest(held: Batch) -> Judged:
    """Return the state that goes furthest, of several that were stored."""
    never = datetime.min.replace(tzinfo=UTC)
    states = filter(None, (read_own(delivery.body, Judged) for delivery in held.deliveries))
    return max(states, key=lambda judged: judged.at or never, default=Judged())
