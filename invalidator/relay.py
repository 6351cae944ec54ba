"""`invalidator relay`: publishes what applications have committed to their outbox, and deletes it there.

    commit ─(NOTIFY, or the next look)─> take ─> publish: entities side by side, the events of one in turn ─> forget

Rules of this file, beside those of outbox.py:

1. A round is one transaction. Whatever ends it early, a crash included, leaves its rows to the next round.
2. Of an entity whose event could not be published nothing further is published in that round.
3. Neither an absent database nor an absent broker ends the relay: they are states, shown, and waited for. Only a first
   round that is refused, or finds no table, does.
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
import structlog
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL, Engine, create_engine, exc, inspect, make_url

from invalidator.app.publish.async_publisher import AsyncPublisher
from invalidator.app.publish.outbox import Outbox, Waiting
from invalidator.broker.connection import pause
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError, UnreachableError
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.settings import BrokerSettings, OutboxSettings, Settings

#: Seconds after which a round publishes nothing further, so that what a slow broker has confirmed is soon forgotten.
ROUND_SECONDS = 5.0
#: Seconds after which a round counts as stuck: a database that hangs, which a restart may fix.
STUCK_SECONDS = 60.0

log = structlog.get_logger()


#: Seconds that the database has to answer a connection, where the URL's own connect_timeout does not say otherwise.
CONNECT_SECONDS = 10


def engine_of(outbox: OutboxSettings) -> Engine:
    """The outbox's database, not connected yet.

    Raises:
        ConfigurationError: there is no `outbox.url`, or it is none.
    """
    if outbox.url is None:
        raise ConfigurationError('setting "outbox.url" is missing: the database of the application, as in conf/')
    try:
        url = make_url(outbox.url.reveal())
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "postgresql":  # which else waits minutes for a host that does not answer
            url = url.set(query={"connect_timeout": str(CONNECT_SECONDS), **url.query})
        return create_engine(url)
    except (exc.ArgumentError, ImportError):  # whose text may hold the password
        raise ConfigurationError(
            'setting "outbox.url" should read postgresql://user@host/database or sqlite:////path/to/file'
        ) from None


class State(Enum):
    """The states of a relay, in the words of its status line."""

    STARTING = "starting"
    RELAYING = "relaying"
    WAITING = "waiting"
    STOPPING = "stopping"


class Relay:
    """One process; any number of them share an outbox."""

    def __init__(self, settings: Settings, *, broker: Callable[[], BrokerSettings] | None = None) -> None:
        """Raises `ConfigurationError` where the settings cannot work; connects nothing yet.

        ``broker`` is asked again after a refusal, so that a changed password is read.
        """
        self._engine = engine_of(settings.outbox)
        self._outbox = Outbox(settings.outbox.table)
        self._settings = settings.outbox
        self._read_broker = broker or (lambda: settings.broker)
        self._publisher = self._new_publisher()
        self._wake = asyncio.Event()
        #: Set once a round has ended, well or not.
        self.tried = asyncio.Event()
        self._has_worked = False
        #: When the round under way began.
        self._since: float | None = None
        self._state = State.STARTING
        #: Why it waits, while it does.
        self._reason = ""

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until ``stopping`` is set; the round under way is brought to its end.

        Raises:
            RefusedError, ConfigurationError: in the first round; see rule 3.
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
        """One round, and a rest where there was nothing to do, or nothing could be done."""
        self._wake.clear()
        self._since = time.monotonic()
        try:
            relayed = await asyncio.to_thread(self._round)
        except InvalidatorError as error:
            await self._bear(error, stopping)
            return
        finally:
            self._since = None
            self.tried.set()
        self._has_worked, self._state, self._reason = True, State.RELAYING, ""
        if not relayed:
            await _rest(self._wake, self._settings.poll_interval)

    async def _bear(self, error: InvalidatorError, stopping: asyncio.Event) -> None:
        if isinstance(error, RefusedError | ConfigurationError) and not self._has_worked:
            raise error
        if isinstance(error, RefusedError):
            await self._publisher.close()
            self._publisher = self._new_publisher()
        self._state, self._reason = State.WAITING, str(error)
        log.warning("cannot relay; the outbox keeps it", reason=str(error))
        await _rest(stopping, pause())

    def _round(self) -> int:
        """In a thread: how many events were published. Raises what kept others from being so."""
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
        """One relay at a time where rows cannot be locked; when it dies the kernel lets the next one in."""
        if self._engine.dialect.name != "sqlite":
            yield
            return
        with Path(f"{self._engine.url.database}.relay").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    async def _publish(self, events: list[Waiting]) -> tuple[list[Waiting], InvalidatorError | None]:
        """What was published, and why the rest was not."""
        by_entity = groupby(sorted(events, key=lambda event: (event.entity, event.id)), key=lambda event: event.entity)
        chains = await asyncio.gather(*(self._publish_in_turn(list(chain)) for _, chain in by_entity))
        failures = [failure for _, failure in chains if failure]
        return [event for published, _ in chains for event in published], failures[0] if failures else None

    async def _publish_in_turn(self, events: list[Waiting]) -> tuple[list[Waiting], InvalidatorError | None]:
        for number, event in enumerate(events):
            if self._since and time.monotonic() - self._since > ROUND_SECONDS:
                return events[:number], None
            try:
                await self._publisher.send(event.message)
            except InvalidatorError as error:
                return events[:number], error
        return events, None

    def _new_publisher(self) -> AsyncPublisher:
        broker = self._read_broker()
        return AsyncPublisher(broker, app_id="relay", timeout=broker.publish_timeout)

    async def _listen(self) -> None:
        """Wake up at each commit, where the database says so; a round says itself what is wrong with the database."""
        if self._engine.dialect.name != "postgresql":
            return
        listen = SQL("LISTEN {}").format(Identifier(self._settings.table))
        while True:
            with suppress(psycopg.Error, OSError):
                connecting = psycopg.AsyncConnection.connect(_libpq(self._engine.url), autocommit=True)
                async with await connecting as connection:
                    await connection.execute(listen)
                    self._wake.set()  # for what was committed before
                    async for _ in connection.notifies():
                        self._wake.set()
            await asyncio.sleep(pause())

    async def _heed(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._state, self._reason = State.STOPPING, ""
        self._wake.set()

    def health(self) -> Health:
        """Return its health, for systemd and over HTTP."""
        return Health(is_live=not self._is_stuck(), is_ready=self._state is State.RELAYING, status=self.status())

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
