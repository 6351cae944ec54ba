"""One session of a relay: everything in the outbox goes to the broker in order, and is deleted once confirmed.

    sweep ─> batches ─(the next is read meanwhile)─> published, thousands in flight ─> confirmed ─> deleted, in batches
      └──────────────────── the next sweep begins while the last events are still in flight ───────────────────────┘

Rules of this file:

1. Events are published in the order of a sweep, all on one channel. An event that is in flight, or not yet deleted,
   is left out of the next sweep.
2. After a failure nothing further is published. The events in flight are waited for. Of each entity, only those
   before its first unconfirmed event are deleted, and the next session publishes again from there.
3. The first failure ends the session, and so does the loss of the database, because the claims are gone with it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar

from invalidator.app.publish.outbox import OutboxEvent
from invalidator.errors import InvalidatorError

#: Seconds that a sweep goes on, so that events committed late, with lower ids, do not wait for the end of a backlog.
SWEEP_SECONDS = 1.0
#: Seconds between two counts of the relays.
BALANCE_SECONDS = 1.0
#: Seconds between two deletions, so that each deletes many events.
DELETE_SECONDS = 0.02

T = TypeVar("T")


class ShardSource(Protocol):
    """The outbox: `invalidator.relay.database.OutboxSession`. Its methods block, but for `swept`."""

    def balance(self) -> int: ...
    def release(self, surplus: int) -> None: ...
    def sweep(self, without: Collection[str] = ()) -> Iterator[list[OutboxEvent]]: ...
    def swept(self, through: int, *, is_whole: bool) -> None: ...
    def delete(self, events: Collection[OutboxEvent]) -> None: ...


class Sink(Protocol):
    """The broker; `publish` waits for room only."""

    async def publish(self, event: OutboxEvent) -> None: ...
    async def flush(self) -> None: ...
    async def next_confirmed(self) -> list[OutboxEvent]: ...
    def take_confirmed(self) -> list[OutboxEvent]: ...
    def left(self) -> list[tuple[OutboxEvent, bool]]: ...


class Blocking(Protocol):
    """Runs a blocking function in a thread."""

    async def __call__(self, function: Callable[..., T], *arguments: object) -> T: ...


class Drain:
    """Empties an outbox, until stopped or until something fails."""

    def __init__(
        self,
        source: ShardSource,
        sink: Sink,
        *,
        blocking: Blocking,
        relayed: Callable[[int], None],
        without: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Call ``relayed`` with the number of events deleted, or with 0 when none is waiting and none in flight.

        ``without`` is called before each sweep, for the entities to leave out.
        """
        self._source = source
        self._sink = sink
        self._blocking = blocking
        self._relayed = relayed
        self._without = without
        self._clock = clock
        self._balanced = -BALANCE_SECONDS
        #: Ids of events that were read and are not deleted yet.
        self._held: set[int] = set()
        self._deletion = asyncio.Lock()
        #: The entity of the first event that could not be published.
        self.failed: str | None = None

    async def run(self, stopping: asyncio.Event, wait: Callable[[], Awaitable[object]]) -> None:
        """Relay until ``stopping`` is set; between two sweeps that find nothing, await what ``wait`` returns.

        Raises:
            InvalidatorError: publishing failed, or the database did.
        """
        deleting = asyncio.create_task(self._delete_confirmed())
        try:
            while not stopping.is_set():
                found = await self._sweep(stopping)
                if not found:
                    if not self._held:
                        self._relayed(0)
                    resting = asyncio.ensure_future(wait())
                    await asyncio.wait((deleting, resting), return_when=asyncio.FIRST_COMPLETED)
                    resting.cancel()
                if deleting.done():
                    await deleting  # raises
        finally:
            await self._settle(deleting)

    async def _sweep(self, stopping: asyncio.Event) -> int:
        """Publish the outbox from its beginning; return the number of events."""
        await self._balance()
        skipped, found, through, until = frozenset(self._held), 0, 0, self._clock() + SWEEP_SECONDS
        batches = self._source.sweep(self._without())
        reading = asyncio.ensure_future(self._blocking(next, batches, None))
        try:
            while events := await reading:
                reading = asyncio.ensure_future(self._blocking(next, batches, None))
                for event in events:
                    if event.id not in skipped:
                        self._held.add(event.id)
                        await self._sink.publish(event)
                        found += 1
                through = events[-1].id
                if stopping.is_set() or self._clock() > until:
                    break
        finally:
            with suppress(InvalidatorError):
                await reading
            await self._blocking(batches.close)  # type: ignore[attr-defined]
        self._source.swept(through, is_whole=not events)
        return found

    async def _balance(self) -> None:
        if self._clock() - self._balanced < BALANCE_SECONDS:
            return
        self._balanced = self._clock()
        if surplus := await self._blocking(self._source.balance):
            await self._sink.flush()
            await self._delete(self._sink.take_confirmed())
            async with self._deletion:  # the other task may be deleting the last ones
                assert not self._held
            await self._blocking(self._source.release, surplus)

    async def _delete_confirmed(self) -> None:
        while True:
            await self._delete(await self._sink.next_confirmed())
            await asyncio.sleep(DELETE_SECONDS)

    async def _delete(self, events: list[OutboxEvent]) -> None:
        if events:
            async with self._deletion:
                await self._blocking(self._source.delete, events)
                self._held.difference_update([event.id for event in events])
            self._relayed(len(events))

    async def _settle(self, deleting: "asyncio.Task[None]") -> None:
        """Wait for the events in flight, and delete those that no failed one of their entity comes before."""
        with suppress(InvalidatorError):
            await self._sink.flush()
        async with self._deletion:
            deleting.cancel()
        with suppress(asyncio.CancelledError, InvalidatorError):
            await deleting
        with suppress(InvalidatorError):
            await self._delete(self._sink.take_confirmed() + self._deletable())

    def _deletable(self) -> list[OutboxEvent]:
        failed: set[str] = set()
        deletable = []
        for event, is_confirmed in self._sink.left():
            if not is_confirmed:
                failed.add(event.entity)
                self.failed = self.failed if self.failed is not None else event.entity
            elif event.entity not in failed:
                deletable.append(event)
        return deletable
