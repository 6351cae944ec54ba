"""The relay as a service: one session after the other, and its state.

    commit ─(NOTIFY, or the next poll)─> sweep (see `drain`)        a failure ─> waiting ─> the next session

Rules of this file:

1. The relay waits for an absent database or broker, and its state says so. Only a session that is refused, or that
   finds no table, before anything has worked, ends it.
2. An entity whose event fails twice in a row is left out for a while, so that it does not stop the others.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import TypeVar

from invalidator.app.publish.outbox import OutboxEvent
from invalidator.broker.address import connection_name
from invalidator.broker.connection import pause
from invalidator.broker.publish.confirms import properties_of
from invalidator.broker.publish.pipelined_publisher import PipelinedPublisher
from invalidator.errors import ConfigurationError, InvalidatorError, RefusedError
from invalidator.relay.database import OutboxSession, engine_of
from invalidator.relay.drain import Drain
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import BrokerSettings, Settings

#: Seconds after which a statement counts as stuck, as with a database that hangs. A restart may fix that.
STUCK_SECONDS = 60.0
#: Seconds between two log lines about events that were relayed.
LOG_SECONDS = 1.0
#: Seconds for which an entity is left out whose event failed twice.
LEFT_OUT_SECONDS = 5.0

T = TypeVar("T")

log = Log(__name__)


class RelayState(Enum):
    """The states of a relay, in the words of its status line."""

    STARTING = "starting"
    RELAYING = "relaying"
    WAITING = "waiting"
    STOPPING = "stopping"


class Relay:
    """Publishes from an outbox; any number of relays share one."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings] | None = None) -> None:
        """Connect nothing yet. ``read`` is called before each session, so that a changed password is read.

        Raises:
            ConfigurationError: the settings cannot work.
        """
        self._engine = engine_of(settings.outbox)
        self._settings = settings.outbox
        self._read = read or (lambda: settings)
        self._wake = asyncio.Event()
        #: Set once events were published or none was waiting, or the first session has failed.
        self.tried = asyncio.Event()
        self._has_worked = False
        #: When each statement under way began.
        self._under_way: list[float] = []
        self._state = RelayState.STARTING
        #: Why it waits, while it does.
        self._reason = ""
        self._outage = Outage(log.warning, "cannot publish from the outbox; events stay in the table, retrying")
        #: Events relayed that are not logged yet, and when the next line may be logged.
        self._unlogged, self._log_at = 0, 0.0
        #: The entity that failed last, and those that are left out, with the time until which.
        self._failed: str | None = None
        self._left_out: dict[str, float] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until ``stopping`` is set, and wait for the events in flight.

        Raises:
            RefusedError, ConfigurationError: the first session failed; see rule 1.
        """
        others = [asyncio.create_task(part) for part in (self._listen(), self._heed(stopping))]
        try:
            while not stopping.is_set():
                try:
                    await self._session(stopping)
                except InvalidatorError as error:
                    await self._survive(error, stopping)
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            self._engine.dispose()

    async def _session(self, stopping: asyncio.Event) -> None:
        source, channel = OutboxSession(self._engine, self._settings), self._channel()
        drain = Drain(source, channel, blocking=self._blocking, relayed=self._relayed, without=self._leave_out)
        try:
            await self._blocking(source.open)
            await drain.run(stopping, self._rest)
        finally:
            self._suspect(drain.failed)
            await self._blocking(source.close)
            await channel.close()

    def _channel(self) -> "Channel":
        return Channel(self._read().broker)

    async def _survive(self, error: InvalidatorError, stopping: asyncio.Event) -> None:
        self.tried.set()
        if isinstance(error, RefusedError | ConfigurationError) and not self._has_worked:
            raise error
        self._state, self._reason = RelayState.WAITING, str(error)
        self._outage.lasts(str(error))
        await _rest(stopping, pause())

    async def _rest(self) -> None:
        await _rest(self._wake, self._settings.poll_interval)
        self._wake.clear()

    async def _blocking(self, function: Callable[..., T], *arguments: object) -> T:
        began = time.monotonic()
        self._under_way.append(began)
        try:
            return await asyncio.to_thread(function, *arguments)
        finally:
            self._under_way.remove(began)

    def _relayed(self, count: int) -> None:
        self._state, self._reason, self._has_worked = RelayState.RELAYING, "", True
        self.tried.set()
        self._outage.ends()
        metrics.RELAYED.inc(count)
        self._unlogged += count
        if self._unlogged and time.monotonic() >= self._log_at:
            log.info("relayed", events=self._unlogged)
            self._unlogged, self._log_at = 0, time.monotonic() + LOG_SECONDS

    def _suspect(self, failed: str | None) -> None:
        if failed is not None and failed == self._failed:
            self._left_out[failed] = time.monotonic() + LEFT_OUT_SECONDS
        self._failed = failed

    def _leave_out(self) -> list[str]:
        now = time.monotonic()
        self._left_out = {entity: until for entity, until in self._left_out.items() if until > now}
        return list(self._left_out)

    async def _listen(self) -> None:
        if self._engine.dialect.name == "postgresql":
            from invalidator.relay.notifications import listen  # noqa: PLC0415  psycopg is an extra

            await listen(self._engine.url, self._settings.table, self._wake)

    async def _heed(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._state, self._reason = RelayState.STOPPING, ""
        self._wake.set()

    def health(self) -> Health:
        """Return its health, for systemd and over HTTP."""
        return Health(is_live=not self._is_stuck(), is_ready=self._state is RelayState.RELAYING, status=self.status())

    def status(self) -> str:
        """Return its state in one line."""
        stuck = "a statement is stuck" if self._is_stuck() else ""
        return "; ".join(filter(None, [": ".join(filter(None, [self._state.value, self._reason])), stuck]))

    def _is_stuck(self) -> bool:
        return bool(self._under_way) and time.monotonic() - min(self._under_way) > STUCK_SECONDS


async def _rest(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Channel:
    """The broker as a `drain.Sink`; it connects at the first event."""

    def __init__(self, broker: BrokerSettings) -> None:
        name = connection_name("publisher", "relay")
        self._publisher: PipelinedPublisher[OutboxEvent] = PipelinedPublisher(
            broker, name=name, confirmed=lambda _: None
        )
        self._is_open = asyncio.Event()
        self.flush, self.close = self._publisher.flush, self._publisher.close
        self.take_confirmed, self.left = self._publisher.take_confirmed, self._publisher.left

    async def publish(self, event: OutboxEvent) -> None:
        if not self._is_open.is_set():
            await self._publisher.open()
            self._is_open.set()
        await self._publisher.publish(event.message.body, properties_of(event.message.properties()), event)

    async def next_confirmed(self) -> list[OutboxEvent]:
        await self._is_open.wait()
        return await self._publisher.next_confirmed()
