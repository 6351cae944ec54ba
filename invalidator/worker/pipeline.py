"""The path of a batch, from the queue to its acknowledgement. READ THIS FIRST.

    batch ─> plan ─> evict (fence) ─┬─> settle (ack)
                │                   └─ node unreachable ─> park its keys ──┐
                └─ poison ─> dead-letter queue ────────────────────────────┴─> settle (ack)

Rules of this file:

1. A batch is settled only when, for every event in it, either every node confirmed every key, or the debt of a node
   that did not is stored in its parking queue, or the event is stored in the dead-letter queue. Until then nothing of
   it is acknowledged, and a crash at any point means that the broker delivers it again. Evicting twice does no harm.
2. A node that hangs costs a batch one deadline (`Evictor`), never a second: its keys are parked, the others go on.
3. Where a debt cannot be parked, its batch waits, in a named state, and tries the node and the parking queue in turn.
   As many batches as may be in flight can wait like this; then no more are taken, and the broker keeps the rest.
4. A second eviction that a rule asks for is stored before the first is settled. Where it cannot be, its batch waits
   the time out and evicts by itself: slower, and an alarm never stops evicting.
5. Poison that cannot be published is refused through the consuming connection, so that an alarm never stops evicting.
6. While as many batches as may be are in flight the next one gathers; no timer, no linger.
7. SIGTERM: the intake hands out what it holds and then ends; `run` returns when all of that is settled. Whoever cannot
   wait cancels `run`, and the broker delivers what was not settled to another worker.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import structlog

from invalidator.broker.connection import pause
from invalidator.errors import InvalidatorError, PoisonError
from invalidator.memcached.cluster import Outcome
from invalidator.memcached.eviction import Answer, Evicted, Unreachable
from invalidator.runtime import metrics
from invalidator.worker.planner import Plan, Plans
from invalidator.worker.reporting import Account

#: Seconds that a batch may be at work, waiting in no named state, before it counts as stuck.
STUCK_SECONDS = 30.0

log = structlog.get_logger()


class Batch(Protocol):
    @property
    def deliveries(self) -> Sequence[Any]: ...


B = TypeVar("B", bound=Batch)


class Intake(Protocol[B]):
    """Where batches come from and where they are settled: `invalidator.broker.consumer.Consumer`."""

    #: Called when there may be something to `take`.
    on_ready: Callable[[], None]

    def take(self) -> B | None: ...
    async def hand_out(self) -> None: ...
    async def settle(self, batch: B) -> None: ...
    async def refuse(self, batch: B, delivery: Any) -> None: ...


class Evictor(Protocol):
    """The nodes: `invalidator.memcached.cluster.Cluster`. A node's failure is an outcome, never an exception."""

    def evict(self, keys: Collection[bytes]) -> Awaitable[Outcome]: ...
    async def evict_on(self, label: str, keys: Collection[bytes]) -> Answer: ...


class Outlet(Protocol):
    """What a batch leaves behind: `invalidator.worker.deferred.Outlet`. Raises what the broker would not take."""

    async def park(self, label: str, keys: Sequence[bytes]) -> None: ...
    async def again(self, delay_ms: int, keys: Sequence[bytes]) -> None: ...
    async def bury(self, delivery: Any, poison: PoisonError) -> None: ...
    def announce(self, keys: Sequence[str], event_ids: Sequence[str], parked: Collection[str]) -> None: ...
    def answer(
        self, deliveries: Sequence[Any], owed: Mapping[str, Collection[bytes]], *, milliseconds: float
    ) -> None: ...


class Flight:
    """A batch on its way: since when it is at work, or what it waits for."""

    def __init__(self) -> None:
        self.started = self._since = time.monotonic()
        self.waits_for: str | None = None

    def is_stuck(self) -> bool:
        return self.waits_for is None and time.monotonic() - self._since > STUCK_SECONDS

    async def wait(self, state: str, back_off: Callable[[], Awaitable[None]]) -> None:
        self.waits_for = state
        await back_off()
        self.waits_for, self._since = None, time.monotonic()


async def _back_off() -> None:
    await asyncio.sleep(pause())


async def _fail(error: Exception) -> None:
    raise error


class Pipeline:
    """Carries batches from the intake to their settlement, a few at a time."""

    def __init__(
        self,
        intake: Intake[B],
        plans: Plans,
        evictor: Evictor,
        outlet: Outlet,
        *,
        in_flight: int = 2,
        back_off: Callable[[], Awaitable[None]] = _back_off,
    ) -> None:
        self._intake: Intake[Any] = intake
        self._plans = plans
        self._evictor = evictor
        self._outlet = outlet
        self._in_flight = in_flight
        #: After the first batch that failed or was cancelled no other is taken.
        self._is_over = False
        self._back_off = back_off
        self._flights: set[Flight] = set()
        self._account = Account()

    async def run(self) -> None:
        """Carry batches until the intake has handed out all."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._intake.on_ready = self._take_off
                try:
                    await self._intake.hand_out()
                finally:
                    self._is_over = True  # the group takes no more tasks once it is cancelled
        finally:
            self._account.close()

    def is_stuck(self) -> bool:
        """Whether a batch is past every deadline it has: a fault of this program, which a restart fixes."""
        return any(flight.is_stuck() for flight in self._flights)

    def waits_for(self) -> str | None:
        """What keeps a batch in flight waiting, if anything does."""
        # A copy: a scrape of the metrics asks this from another thread.
        return next((flight.waits_for for flight in tuple(self._flights) if flight.waits_for), None)

    def _take_off(self) -> None:
        """Take batches while there is room; their keys are written to the nodes here and now, the rest is a task's.

        Called by whoever reads the socket, whose loop turn it saves, and whom no error here must reach.
        """
        try:
            while not self._is_over and len(self._flights) < self._in_flight and (batch := self._intake.take()):
                flight = Flight()
                self._flights.add(flight)
                plan = self._plans.plan(batch.deliveries)
                evicting = self._evictor.evict(plan.keys)
                self._tasks.create_task(self._carry(batch, plan, evicting, flight))
        except Exception as error:  # noqa: BLE001  `run` raises it
            self._is_over = True
            self._tasks.create_task(_fail(error))

    async def _carry(self, batch: Any, plan: Plan[Any], evicting: Awaitable[Outcome], flight: Flight) -> None:
        metrics.RECEIVED.inc(len(batch.deliveries))
        try:
            outcome = await evicting
            parked = await self._owe(outcome.unreachable, flight)
            await self._repeat(plan.again, flight)
            await self._bury(batch, plan.poison)
            self._outlet.announce(plan.texts, plan.event_ids, parked)
            await self._intake.settle(batch)
        except BaseException:
            self._is_over = True
            raise
        finally:
            self._flights.discard(flight)
        self._take_off()
        seconds = time.monotonic() - flight.started
        owed = {label: outcome.unreachable[label].keys for label in parked}
        self._outlet.answer(batch.deliveries, owed, milliseconds=seconds * 1000)
        self._account.settled(len(batch.deliveries), plan, outcome, parked, seconds=seconds)

    async def _owe(self, unreachable: dict[str, Unreachable], flight: Flight) -> dict[str, int]:
        """Park what nodes did not confirm; returns how many keys by label. Ends only when nothing is left owing."""
        parked: dict[str, int] = {}
        for label, debt in unreachable.items():
            keys: Sequence[bytes] = debt.keys
            while keys:
                try:
                    await self._outlet.park(label, keys)
                    parked[label] = len(keys)
                    break
                except InvalidatorError as error:
                    log.warning(
                        "cannot park; nothing is acknowledged until it is possible", node=label, reason=str(error)
                    )
                await flight.wait(f"parking for {label} is impossible", self._back_off)
                keys = await self._still_owed(label, keys)
        return parked

    async def _still_owed(self, label: str, keys: Sequence[bytes]) -> Sequence[bytes]:
        """The node may be back before the broker is."""
        match await self._evictor.evict_on(label, keys):
            case Evicted():
                return ()
            case Unreachable(keys=owed):
                return owed

    async def _repeat(self, again: dict[int, list[bytes]], flight: Flight) -> None:
        """See that keys are evicted a second time after their delay."""
        for delay_ms, keys in again.items():
            due = time.monotonic() + delay_ms / 1000
            while True:
                try:
                    await self._outlet.again(delay_ms, keys)
                    metrics.AGAIN.inc(len(keys))
                    break
                except InvalidatorError as error:
                    log.warning("cannot store second evictions; the batch waits for them itself", reason=str(error))
                await flight.wait("second evictions cannot be stored", self._back_off)
                if time.monotonic() >= due:
                    outcome = await self._evictor.evict(keys)
                    await self._owe(outcome.unreachable, flight)
                    break

    async def _bury(self, batch: Any, poison: list[tuple[Any, PoisonError]]) -> None:
        results = await asyncio.gather(
            *(self._outlet.bury(delivery, error) for delivery, error in poison), return_exceptions=True
        )
        for (delivery, error), result in zip(poison, results, strict=True):
            if isinstance(result, InvalidatorError):
                log.warning("cannot publish a dead letter; rejecting it instead", reason=str(result))
                metrics.REFUSED.inc()
                await self._intake.refuse(batch, delivery)
            elif isinstance(result, BaseException):
                raise result
            else:
                metrics.DEAD.labels(error.reason).inc()
