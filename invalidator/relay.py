"""`invalidator relay`: publishes the events that applications have committed to their outbox, and deletes them there.

    commit ─(NOTIFY, or the next poll)─> take ─> publish: entities side by side, the events of one in turn ─> forget

Rules of this file, beside those of outbox.py:

1. A round is one transaction. A round that ends early, even by a crash, leaves its rows to the next one.
2. After an event that could not be published, no further event of its entity is published in that round.
3. The relay waits for an absent database or broker, and its state says so. Only a first round that is refused, or that
   finds no table, ends it.
"""

import asyncio
import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from itertools import groupby
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL, Engine, create_engine, exc, inspect, make_url

from invalidator.app.publish.async_publisher import AsyncPublisher
from invalidator.app.publish.outbox import Outbox, OutboxEvent
from invalidator.broker.connection import pause
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError, UnreachableError
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import OutboxSettings, Settings

#: Seconds after which a round publishes nothing further, so that events that a slow broker has confirmed are deleted.
ROUND_SECONDS = 5.0
#: Seconds after which a round counts as stuck, as with a database that hangs. A restart may fix that.
STUCK_SECONDS = 60.0
#: Seconds that the database has to answer a connection, unless the URL sets connect_timeout.
CONNECT_SECONDS = 10

log = Log(__name__)


def engine_of(outbox: OutboxSettings) -> Engine:
    """Return the engine of the outbox's database, not connected yet.

    Raises:
        ConfigurationError: `outbox.url` is missing or invalid.
    """
    if outbox.url is None:
        raise ConfigurationError('setting "outbox.url" is missing: the database of the application, as in conf/')
    try:
        url = make_url(outbox.url.reveal())
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "postgresql":  # by default it waits minutes for a host that does not answer
            url = url.set(query={"connect_timeout": str(CONNECT_SECONDS), **url.query})
        return create_engine(url)
    except (exc.ArgumentError, ImportError):  # their text may hold the password
        raise ConfigurationError(
            'setting "outbox.url" should read postgresql://user@host/database or sqlite:////path/to/file'
        ) from None


class RelayState(Enum):
    """The states of a relay, in the words of its status line."""

    STARTING = "starting"
    RELAYING = "relaying"
    WAITING = "waiting"
    STOPPING = "stopping"


class Relay:
    """Publishes from an outbox; any number of relays share one."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings] | None = None) -> None:
        """Connect nothing yet. ``read`` is called again after a refusal, so that a changed password is read.

        Raises:
            ConfigurationError: the settings cannot work.
        """
        self._engine = engine_of(settings.outbox)
        self._outbox = Outbox(settings.outbox.table)
        self._settings = settings.outbox
        self._read = read or (lambda: settings)
        self._publisher = self._new_publisher()
        self._wake = asyncio.Event()
        #: Set once a round has ended, well or not.
        self.tried = asyncio.Event()
        self._has_worked = False
        #: When the round under way began.
        self._since: float | None = None
        self._state = RelayState.STARTING
        #: Why it waits, while it does.
        self._reason = ""
        self._outage = Outage(log.warning, "cannot publish from the outbox; events stay in the table, retrying")

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until ``stopping`` is set, and complete the round under way.

        Raises:
            RefusedError, ConfigurationError: the first round failed; see rule 3.
        """
        self._loop = asyncio.get_running_loop()
        others = [asyncio.create_task(part) for part in (self._listen(), self._heed(stopping))]
        try:
            while not stopping.is_set():
                await self._turn(stopping)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._publisher.close()
            self._engine.dispose()

    async def _turn(self, stopping: asyncio.Event) -> None:
        """Run one round, then wait if it published nothing or failed."""
        self._wake.clear()
        self._since = time.monotonic()
        try:
            relayed = await asyncio.to_thread(self._round)
        except InvalidatorError as error:
            await self._survive(error, stopping)
            return
        finally:
            self._since = None
            self.tried.set()
        self._has_worked, self._state, self._reason = True, RelayState.RELAYING, ""
        self._outage.ends()
        if not relayed:
            await _rest(self._wake, self._settings.poll_interval)

    async def _survive(self, error: InvalidatorError, stopping: asyncio.Event) -> None:
        if isinstance(error, RefusedError | ConfigurationError) and not self._has_worked:
            raise error
        if isinstance(error, RefusedError):
            await self._publisher.close()
            self._publisher = self._new_publisher()
        self._state, self._reason = RelayState.WAITING, str(error)
        self._outage.lasts(str(error))
        await _rest(stopping, pause())

    def _round(self) -> int:
        """Publish the next events, in a thread, and return their number; raise the first failure."""
        try:
            if not self._has_worked and not inspect(self._engine).has_table(self._settings.table):
                raise ConfigurationError(
                    f'the database has no table "{self._settings.table}": invalidator relay --create-table'
                )
            with self._alone(), self._engine.begin() as connection:
                events = self._outbox.take(connection, self._settings.batch_events)
                published, failure = asyncio.run_coroutine_threadsafe(self._publish(events), self._loop).result()
                self._outbox.forget(connection, published)
        except exc.DBAPIError as error:
            raise UnreachableError(f"the outbox's database: {str(error.orig).strip()}") from error
        metrics.RELAYED.inc(len(published))
        if published:
            log.info("relayed", events=len(published))
        if failure:
            raise failure
        return len(published)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one relay in at a time where rows cannot be locked. The kernel lets the next one in when it dies."""
        if self._engine.dialect.name != "sqlite":
            yield
            return
        with Path(f"{self._engine.url.database}.relay").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    async def _publish(self, events: list[OutboxEvent]) -> tuple[list[OutboxEvent], InvalidatorError | None]:
        """Return the events that were published, and why the rest was not."""
        by_entity = groupby(sorted(events, key=lambda event: (event.entity, event.id)), key=lambda event: event.entity)
        chains = await asyncio.gather(*(self._publish_in_turn(list(chain)) for _, chain in by_entity))
        failures = [failure for _, failure in chains if failure]
        return [event for published, _ in chains for event in published], failures[0] if failures else None

    async def _publish_in_turn(self, events: list[OutboxEvent]) -> tuple[list[OutboxEvent], InvalidatorError | None]:
        for number, event in enumerate(events):
            if self._since and time.monotonic() - self._since > ROUND_SECONDS:
                return events[:number], None
            try:
                await self._publisher.send(event.message)
            except InvalidatorError as error:
                return events[:number], error
        return events, None

    def _new_publisher(self) -> AsyncPublisher:
        broker = self._read().broker
        return AsyncPublisher(broker, app_id="relay", timeout=broker.publish_timeout)

    async def _listen(self) -> None:
        """Wake up at each commit, if the database notifies; the rounds report errors of the database."""
        if self._engine.dialect.name != "postgresql":
            return
        listen = SQL("LISTEN {}").format(Identifier(self._settings.table))
        while True:
            with suppress(psycopg.Error, OSError):
                connecting = psycopg.AsyncConnection.connect(_libpq(self._engine.url), autocommit=True)
                async with await connecting as connection:
                    await connection.execute(listen)
                    self._wake.set()  # for events that were committed before
                    async for _ in connection.notifies():
                        self._wake.set()
            await asyncio.sleep(pause())

    async def _heed(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._state, self._reason = RelayState.STOPPING, ""
        self._wake.set()

    def health(self) -> Health:
        """Return its health, for systemd and over HTTP."""
        return Health(is_live=not self._is_stuck(), is_ready=self._state is RelayState.RELAYING, status=self.status())

    def status(self) -> str:
        """Return its state in one line."""
        stuck = "a round is stuck" if self._is_stuck() else ""
        return "; ".join(filter(None, [": ".join(filter(None, [self._state.value, self._reason])), stuck]))

    def _is_stuck(self) -> bool:
        return self._since is not None and time.monotonic() - self._since > STUCK_SECONDS


async def _rest(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
