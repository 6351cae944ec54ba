"""`invalidator follow`: publishes an event for each committed change of the tables that rules name.

    stream ─> BEGIN: wait at the gate ─> rows ─> events ─> publish, many in flight ─> COMMIT: a position
                                                                │                         │
                                                           confirmed, in order ───────────┴─> the slot moves on

Rules of this file:

1. The slot moves to a position only when RabbitMQ has confirmed every event before it.
2. Nothing of a transaction is published before the gate has seen it visible on the primary.
3. Whatever is lost, the database, the broker or the stream, all of it is built anew, from the slot's position on.
   Events that were published since then are published again, under the same ids.
4. With nothing in flight every position that the server names is confirmed: an idle follower keeps no log from being
   deleted.
5. Log that is missing is a gap (`Place`). It is stored before a new slot is made.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from enum import Enum
from typing import Any

import psycopg

from invalidator.app.publish.message import Message
from invalidator.broker.address import connection_name
from invalidator.broker.connection import pause
from invalidator.broker.errors import did_not_confirm
from invalidator.broker.publish.confirms import properties_of
from invalidator.broker.publish.pipelined_publisher import PipelinedPublisher
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError
from invalidator.follow import lsn, slot
from invalidator.follow.place import Place
from invalidator.follow.progress import START, Position, Progress
from invalidator.follow.reader import LogReader
from invalidator.follow.setup import database
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.settings import BrokerSettings, Settings

#: Seconds between two measurements of the slot.
MEASURE_SECONDS = 5.0

log = Log(__name__)


class FollowerState(Enum):
    """The states of a follower, in the words of its status line."""

    STARTING = "starting"
    FOLLOWING = "following"
    WAITING = "waiting"


class Follower:
    """One process; a slot has one follower at a time, and a second one waits for it."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings] | None = None) -> None:
        """Check the settings; connect nothing yet.

        `read` is called for each session, so that a changed password is read.

        Raises:
            ConfigurationError: there is no `follow.url`.
        """
        if settings.follow.url is None:
            raise ConfigurationError('setting "follow.url" is missing: the primary whose log is followed, as in conf/')
        self._settings = settings
        self._read = read or (lambda: settings)
        #: Set once a session has begun, or has failed.
        self.tried = asyncio.Event()
        self._has_worked = False
        self._state = FollowerState.STARTING
        self._reason = ""
        self._place = Place()
        self._current: FollowerSession | None = None

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow until `stopping` is set.

        Raises:
            RefusedError, ConfigurationError: in the first session.
        """
        while not stopping.is_set():
            try:
                await self._session(stopping)
            except InvalidatorError as error:
                if isinstance(error, RefusedError | ConfigurationError) and not self._has_worked:
                    raise
                self._wait_for(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause()):
                        await stopping.wait()

    def health(self) -> Health:
        """Return how the follower stands, for HTTP and systemd."""
        reason = self._reason or (self._current.waits_for() if self._current else "")
        status = f"{self._state.value}: {reason}" if reason else self._state.value
        return Health(is_live=True, is_ready=self._state is FollowerState.FOLLOWING, status=status)

    def _wait_for(self, error: InvalidatorError) -> None:
        if str(error) != self._reason:
            log.warning("cannot follow; the slot keeps its place, retrying", reason=str(error))
        self._state, self._reason = FollowerState.WAITING, str(error)
        self.tried.set()

    async def _session(self, stopping: asyncio.Event) -> None:
        async with database(self._settings) as connection:
            broker = self._read().broker
            await self._place.assert_whole(connection, self._settings.follow, broker)
            session = FollowerSession(self._settings, broker, connection)
            try:
                await session.open()
                self._has_worked, self._state, self._reason = True, FollowerState.FOLLOWING, ""
                self._place.reached(Position(session.start))
                self._current = session
                self.tried.set()
                log.info("following", slot=self._settings.follow.slot, position=lsn.to_text(session.start))
                await session.run(stopping)
            finally:
                self._current = None
                await session.close()
                self._place.reached(session.position, seen=session.seen)


class FollowerSession:
    """One reader of the log and one publisher: as long as neither is lost."""

    def __init__(self, settings: Settings, broker: BrokerSettings, connection: "psycopg.AsyncConnection[Any]") -> None:
        self._settings = settings
        self._connection = connection
        self._timeout = broker.publish_timeout
        self._progress = Progress()
        name = connection_name("follow", settings.follow.slot)
        self._publisher: PipelinedPublisher[None] = PipelinedPublisher(broker, name=name, confirmed=self._on_confirmed)
        self._reader: LogReader | None = None
        #: Where the slot stood.
        self.start = 0

    @property
    def position(self) -> Position:
        """The position that was confirmed last, START before the first."""
        return self._progress.position

    @property
    def seen(self) -> int:
        """The end of the database's log, as far as the server has named it."""
        return self._reader.seen if self._reader else 0

    def waits_for(self) -> str:
        """Return what keeps changes from being published, "" if nothing does."""
        xid = self._reader.waits_for if self._reader else None
        return f"transaction {xid} is not visible yet: a synchronous standby that does not answer?" if xid else ""

    async def open(self) -> None:
        """Connect to the broker, then begin to read; raises as both do."""
        follow = self._settings.follow
        await self._publisher.open()
        if found := await slot.inspect(self._connection, follow.slot):
            self.start = found.confirmed
        self._reader = await LogReader.open(follow, self._connection, types=types(self._settings))

    async def run(self, stopping: asyncio.Event) -> None:
        """Publish what the log brings until `stopping` is set; raises what ends the session."""
        tasks = [asyncio.create_task(part) for part in (stopping.wait(), self._read(), self._watch(), self._measure())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(InvalidatorError):  # events that are not confirmed are published again
            await self._publisher.flush()

    async def close(self) -> None:
        """Send the last position and close the connections; never raises."""
        if self._reader:
            await self._reader.close()
        await self._publisher.close()

    async def _read(self) -> None:
        assert self._reader
        async for item in self._reader.items():
            if isinstance(item, Position):
                self._progress.reached(item)
                self._confirm()
            else:
                self._progress.published += 1
                await self._publisher.publish(item.body, properties_of(item.properties()))

    def _on_confirmed(self, _: int) -> None:
        if self._publisher.failure is None:  # of a failed one nobody knows how far it came
            metrics.FOLLOWED.inc(self._progress.confirm(self._publisher.confirmed_through))
            self._confirm()

    def _confirm(self) -> None:
        if self._reader and self._progress.position != START:
            self._reader.confirm(self._progress.position.lsn)

    async def _watch(self) -> None:
        """Raise once the broker has confirmed nothing for too long, or was lost."""
        while True:
            before = self._progress.confirmed
            await asyncio.sleep(self._timeout)
            if self._publisher.failure:
                raise self._publisher.failure
            if self._progress.in_flight and self._progress.confirmed == before:
                raise did_not_confirm(self._timeout, "changes of the database")

    async def _measure(self) -> None:
        while True:
            if found := await slot.inspect(self._connection, self._settings.follow.slot):
                metrics.FOLLOW_BEHIND.set(found.behind)
                metrics.FOLLOW_RETAINED.set(found.retained)
            await asyncio.sleep(MEASURE_SECONDS)


async def events(settings: Settings) -> AsyncIterator[Message]:
    """Yield the events that a follower would publish, from the slot's position on, which does not move."""
    async with database(settings) as connection:
        reader = await LogReader.open(settings.follow, connection, types=types(settings))
        try:
            async for item in reader.items():
                if not isinstance(item, Position):
                    yield item
        finally:
            await reader.close()


def types(settings: Settings) -> set[str]:
    """Return the types of events that rules are for."""
    return {rule.on for rule in settings.rule}
