"""The path of a batch, from the queue to its acknowledgement. READ THIS FIRST.

    batch ─> plan ─> evict (fence) ─┬─> settle (ack)
                │                   └─ node unreachable ─> park its keys ──┐
                └─ poison ─> dead-letter queue ────────────────────────────┴─> settle (ack)

Rules of this file:

1. A batch is settled only when every event in it is safe: every node confirmed all of its keys, or the debt of a node
   that did not is stored in its parking queue, or the event itself is stored in the dead-letter queue, or the gap that
   it reports in the queue of gaps. Nothing of the batch is acknowledged before, so the broker delivers it again after
   a crash at any point. Evicting twice is harmless.
2. A node that hangs costs a batch one deadline (`Evictor`), never two. Its keys are parked, and the other nodes go on.
3. A batch whose debt cannot be parked waits in a named state, and tries the node and the parking queue in turn. When
   all batches in flight wait like this, no more are taken, and the broker keeps the rest.
4. A second eviction that a rule asks for is stored before the first one is settled. If it cannot be stored, its batch
   waits out the delay and evicts again itself: slower, but a broker in alarm never stops evicting.
5. Poison that cannot be published is rejected on the consuming connection, so that an alarm never stops evicting.
6. While the pipeline is full, the next batch gathers. There is no timer and no linger.
7. Debezium's changes come before new reads see them. If the primary is known (`debezium.url`), those that cannot be
   seen are evicted all the same, stored, and come again, before the batch is settled.
8. On SIGTERM the intake hands out what it holds and ends, and `run` returns when all of that is settled. Cancelling
   `run` ends it at once, and the broker delivers what was not settled to another worker.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from invalidator.broker.connection import pause
from invalidator.broker.consume.subscription import Batch
from invalidator.broker.gap import Gap
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import InvalidatorError, PoisonError
from invalidator.memcached.cluster import Outcome
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.worker.deferred import DeferredWork
from invalidator.worker.planner import Plan, Plans
from invalidator.worker.receipts import Receipts
from invalidator.worker.reporting import BatchReport, report_gap

#: Seconds after which a batch counts as stuck, unless it waits in a named state.
STUCK_SECONDS = 30.0

log = Log(__name__)


class Intake(Protocol):
    """The source of batches, which also settles them: `invalidator.broker.consume.queue_intake.QueueIntake`."""

    #: Called when there may be something to `take`.
    on_ready: Callable[[], None]

    def take(self) -> Batch | None: ...
    async def hand_out(self) -> None: ...
    async def settle(self, batch: Batch) -> None: ...
    async def refuse(self, batch: Batch, delivery: Delivery) -> None: ...


class Evictor(Protocol):
    """The nodes: `invalidator.memcached.cluster.Cluster`. A node's failure is an outcome, never an exception."""

    def evict(self, keys: Collection[bytes]) -> Awaitable[Outcome]: ...
    async def evict_on(self, label: str, keys: Collection[bytes]) -> Answer: ...


class Sight(Protocol):
    """The database whose changes may come before they can be seen: `invalidator.worker.visibility.Visibility`."""

    async def unseen(self, commits: Sequence[tuple[Delivery, int]]) -> list[tuple[Delivery, int]]: ...
    async def close(self) -> None: ...


class Announcing(Protocol):
    """The announcements of evicted keys: `invalidator.worker.announcer.Announcer`."""

    def announce(self, keys: Sequence[str], event_ids: Sequence[str], parked: Collection[str]) -> None: ...


class InFlight:
    """A batch in the pipeline: since when it is processed, and what it waits for, if it waits."""

    def __init__(self) -> None:
        self.started = self._since = time.monotonic()
        self.waits_for: str | None = None

    def is_stuck(self) -> bool:
        return self.waits_for is None and time.monotonic() - self._since > STUCK_SECONDS

    async def wait(self, state: str, back_off: Callable[[], Awaitable[None]]) -> None:
        """Back off in a named state, in which a batch is never stuck."""
        self.waits_for = state
        await back_off()
        self.waits_for, self._since = None, time.monotonic()


async def _back_off() -> None:
    await asyncio.sleep(pause())


async def _fail(error: Exception) -> None:
    raise error


class Pipeline:
    """Carries batches from the intake to their settlement, a few at a time."""

    def __init__(  # noqa: PLR0913  the parts of a worker
        self,
        intake: Intake,
        planner: Plans,
        evictor: Evictor,
        deferred: DeferredWork,
        announcer: Announcing,
        receipts: Receipts | None,
        *,
        in_flight: int = 2,
        sight: Sight | None = None,
        report: BatchReport | None = None,
        back_off: Callable[[], Awaitable[None]] = _back_off,
    ) -> None:
        self._intake = intake
        self._planner = planner
        self._evictor = evictor
        self._deferred = deferred
        self._announcer = announcer
        self._receipts = receipts
        self._limit = in_flight
        self._sight = sight
        self._back_off = back_off
        self._in_flight: set[InFlight] = set()
        #: Set when a batch has failed or was cancelled; no further batch is taken.
        self._is_over = False
        self._report = report or BatchReport()
        self._not_parking = Outage(log.warning, "cannot publish to the parking queue; holding the batch and retrying")
        self._not_storing = Outage(log.warning, "cannot store second evictions; holding the batch until they are due")
        self._not_postponing = Outage(log.warning, "cannot store changes that no read sees yet; holding the batch")
        self._not_remembering = Outage(log.warning, "cannot store a gap; holding the batch and retrying")
        self._not_dead_lettering = Outage(log.warning, "cannot publish a dead letter; rejecting the message instead")

    async def run(self) -> None:
        """Process batches until the intake has handed out all that it holds."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._intake.on_ready = self._start_batches
                try:
                    await self._intake.hand_out()
                finally:
                    self._is_over = True  # the group takes no more tasks once it is cancelled
        finally:
            self._report.close()

    def is_stuck(self) -> bool:
        """Return True if a batch is past all its deadlines: a bug in this program, which a restart gets past."""
        return any(batch.is_stuck() for batch in self._in_flight)

    def waits_for(self) -> str | None:
        """Return what a batch in flight waits for, if one does, and whether that holds up all others."""
        # Over a copy: a scrape of the metrics calls this from another thread.
        states = [batch.waits_for for batch in tuple(self._in_flight) if batch.waits_for]
        if len(states) < self._limit:
            return states[0] if states else None
        return f"{states[0]}; until then the keys of all nodes wait"

    def _start_batches(self) -> None:
        """Take batches while there is room, and write their keys to the nodes; a task for each does the rest.

        This runs inside the socket's read callback, which saves a turn of the event loop. So it must never raise.
        """
        try:
            while not self._is_over and len(self._in_flight) < self._limit and (batch := self._intake.take()):
                this = InFlight()
                self._in_flight.add(this)
                plan = self._planner.plan(batch.deliveries)
                evicting = self._evict_seen(plan) if plan.commits else self._evictor.evict(plan.keys)
                self._tasks.create_task(self._process(batch, plan, evicting, this))
        except Exception as error:  # noqa: BLE001  `run` raises it
            self._is_over = True
            self._tasks.create_task(_fail(error))

    async def _process(self, batch: Batch, plan: Plan[Delivery], evicting: Awaitable[Outcome], this: InFlight) -> None:
        """See a batch through, from its first eviction to its settlement."""
        metrics.RECEIVED.inc(len(batch.deliveries))
        try:
            outcome = await evicting
            parked = await self._park(outcome.unreachable, this)
            await self._store_second_evictions(plan.again, this)
            await self._postpone(plan, this)
            await self._remember_gaps(plan.gaps, this)
            await self._dead_letter(batch, plan.poison)
            self._announcer.announce(plan.texts, plan.event_ids, parked)
            await self._intake.settle(batch)
        except BaseException:
            self._is_over = True
            raise
        finally:
            self._in_flight.discard(this)
        self._start_batches()
        seconds = time.monotonic() - this.started
        debts = {label: outcome.unreachable[label].keys for label in parked}
        if self._receipts:
            self._receipts.answer(batch.deliveries, debts, milliseconds=seconds * 1000)
        self._report.settled(len(batch.deliveries), plan, outcome, parked, seconds=seconds)

    async def _stored(self, storing: Awaitable[None], outage: Outage, state: str, this: InFlight, **names: str) -> bool:
        """Return True once this is stored; if the broker does not take it, back off in `state` and return False."""
        try:
            await storing
        except InvalidatorError as error:
            outage.lasts(str(error), **names)
            await this.wait(state, self._back_off)
            return False
        outage.ends()
        return True

    async def _park(self, unreachable: dict[str, Unreachable], this: InFlight) -> dict[str, int]:
        """Park the keys that nodes did not confirm, and return how many, by label.

        Returns only when each of these keys is stored in a parking queue, or was evicted after all.
        """
        parked: dict[str, int] = {}
        for label, debt in unreachable.items():
            keys: Sequence[bytes] = debt.keys
            state = f"parking for {label} is impossible"
            while keys:
                if await self._stored(self._deferred.park(label, keys), self._not_parking, state, this, node=label):
                    parked[label] = len(keys)
                    break
                keys = await self._evict_on(label, keys)
        return parked

    async def _evict_on(self, label: str, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Try the node again, as it may be back before the broker is; return the keys that it did not confirm."""
        match await self._evictor.evict_on(label, keys):
            case Evicted():
                return ()
            case Unreachable(keys=unconfirmed):
                return unconfirmed

    async def _store_second_evictions(self, again: dict[int, list[bytes]], this: InFlight) -> None:
        """Store each second eviction for later; if that stays impossible until it is due, do it here."""
        state = "second evictions cannot be stored"
        for delay_ms, keys in again.items():
            due = time.monotonic() + delay_ms / 1000
            while not await self._stored(self._deferred.evict_again(delay_ms, keys), self._not_storing, state, this):
                if time.monotonic() >= due:
                    outcome = await self._evictor.evict(keys)
                    await self._park(outcome.unreachable, this)
                    break
            else:
                metrics.AGAIN.inc(len(keys))

    async def _evict_seen(self, plan: Plan[Delivery]) -> Outcome:
        """Wait a moment until new reads see the changes; evict those that they do not see too, as that does no harm."""
        assert self._sight
        plan.commits = await self._sight.unseen(plan.commits)
        return await self._evictor.evict(plan.keys)

    async def _postpone(self, plan: Plan[Delivery], this: InFlight) -> None:
        """Have changes that new reads do not see yet come again; if they cannot be stored, wait for them here."""
        state = "changes that cannot be seen yet cannot be stored"
        while plan.commits:
            storing = self._deferred.postpone([delivery for delivery, _ in plan.commits])
            if await self._stored(storing, self._not_postponing, state, this):
                break
            outcome = await self._evict_seen(plan)
            await self._park(outcome.unreachable, this)

    async def _remember_gaps(self, gaps: Sequence[Gap], this: InFlight) -> None:
        """Report and store the gaps that publishers have found, for as long as it takes."""
        state = "a gap cannot be stored"
        for gap in gaps:
            report_gap(gap)
            while not await self._stored(self._deferred.remember_gap(gap), self._not_remembering, state, this):
                pass

    async def _dead_letter(self, batch: Batch, poison: list[tuple[Delivery, PoisonError]]) -> None:
        """Store poison in the dead-letter queue, or have the broker move it there."""
        results = await asyncio.gather(
            *(self._deferred.dead_letter(delivery, error) for delivery, error in poison), return_exceptions=True
        )
        for (delivery, error), result in zip(poison, results, strict=True):
            if isinstance(result, InvalidatorError):
                self._not_dead_lettering.lasts(str(result))
                metrics.REFUSED.inc()
                await self._intake.refuse(batch, delivery)
            elif isinstance(result, BaseException):
                raise result
            else:
                self._not_dead_lettering.ends()
                metrics.DEAD.labels(error.reason).inc()
