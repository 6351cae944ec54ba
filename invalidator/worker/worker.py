"""A worker: assembled from its settings, started and stopped.

    Consumer ─> Pipeline ─┬─> Cluster                                  the path of a batch (see pipeline.py)
                          ├─> DeferredWork ─────────> ConfirmedPublisher  debts, dead letters
                          └─> Announcer, Receipts ──> ConfirmedPublisher  messages that may be lost
    Drainer ──────────────┤                                            debts, when their node is back
    Healer ───────────────┴─> Cluster                                  gaps, from the log, if there is one
    TallyKeeper ──────────────────────────> ConfirmedPublisher         gaps: what publishers lost before the log

There are up to three AMQP connections: one only consumes, one publishes what must not be lost, one publishes what may
be. The second is opened for the first debt or dead letter.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from typing import Any

from invalidator.assemble import again_of, client_properties, gated_types, rules_of, type_source_of
from invalidator.broker.address import connection_name
from invalidator.broker.consume.consumer import Consumer
from invalidator.broker.messages import WorkerState
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, InvalidatorError
from invalidator.events.event import EVICT
from invalidator.memcached.cluster import Cluster
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.runtime.logs import Log
from invalidator.settings import BrokerSettings, Settings
from invalidator.worker.announcer import Announcer, Healed
from invalidator.worker.deferred import DeferredWork
from invalidator.worker.drainer import Drainer
from invalidator.worker.gap_keeper import GapKeeper
from invalidator.worker.healer import Healer
from invalidator.worker.pipeline import Pipeline, Sight
from invalidator.worker.planner import Planner
from invalidator.worker.position_keeper import PositionKeeper
from invalidator.worker.receipts import Receipts
from invalidator.worker.reporting import BatchReport, UnmatchedTypes, report_node
from invalidator.worker.tally_keeper import TallyKeeper

#: Seconds after which a cancelled task that has not ended is cancelled again.
CANCEL_AGAIN_SECONDS = 0.5

log = Log(__name__)


class Worker:
    """One process of one cluster."""

    def __init__(self, settings: Settings, *, read: Callable[[], Settings] | None = None) -> None:
        """Assemble the worker; connect nothing yet.

        ``read`` is called before every connection, to broker or node, so that a changed password is read again.

        Raises:
            ConfigurationError: the settings cannot work.
        """
        read = read or (lambda: settings)

        def read_broker() -> BrokerSettings:
            return read().broker

        self._settings = settings
        topology = Topology.of(settings)
        name = f"{settings.cluster}.{socket.gethostname()}.{os.getpid()}"
        properties = client_properties(settings)

        def publisher(role: str, *, confirms: bool) -> ConfirmedPublisher:
            named = connection_name("worker", settings.cluster, role)
            return ConfirmedPublisher(read_broker, name=named, properties=properties, confirms=confirms)

        self._confirmed = publisher("publishes", confirms=True)
        self._unconfirmed = publisher("announces", confirms=False)
        self._cluster = Cluster.of(settings, read=lambda: read().memcached, on_change=report_node)
        unmatched = UnmatchedTypes([EVICT, *(rule.on for rule in settings.rule)])
        digests = properties["ring_digest"], properties["configuration_digest"]
        self._announcer = Announcer(
            self._unconfirmed,
            topology,
            worker=name,
            state=lambda: WorkerState(
                *digests,
                unmatched.found,
                self._pipeline.waits_for() or "",
                self._cluster.connected(),
                self._healer.doing,
                self._tally.unnumbered,
            ),
        )
        planner = Planner(
            rules_of(settings),
            body_bytes=settings.limits.body_bytes,
            again=again_of(settings),
            source=type_source_of(settings),
            gated=gated_types(settings),
        )
        self._receipts = Receipts(
            self._unconfirmed, planner, cluster=settings.cluster, worker=name, prefix=settings.broker.reply_prefix
        )
        deferred = DeferredWork(
            self._confirmed,
            topology,
            worker=name,
            parked_limit=settings.worker.parked_limit,
            event_keys=settings.limits.event_keys,
        )
        self._gaps = GapKeeper(self._confirmed, topology, heals=settings.event_log.enabled)
        self._consumer = Consumer(
            read_broker,
            topology,
            tag=f"{settings.broker.prefix}.{name}",
            batch_events=settings.worker.batch_events,
            buffer_bytes=settings.worker.buffer_bytes,
            properties=properties,
            on_gap=self._gaps.keep,
            store_gap=self._gaps.store_first,
        )
        self._visibility = _visibility_of(settings, read)
        self._pipeline = Pipeline(
            self._consumer.intake,
            planner,
            self._cluster,
            deferred,
            self._announcer,
            self._receipts,
            in_flight=settings.worker.batches_in_flight,
            sight=self._visibility,
            report=BatchReport(unmatched),
        )
        self._drainer = Drainer(
            lambda: self._consumer.session,
            topology,
            self._cluster,
            deferred,
            self._announcer,
            tag=f"{settings.broker.prefix}.{name}",
            declares=settings.broker.declare == "active",
            on_gap=self._gaps.keep,
        )
        self._healer = Healer(
            lambda: self._consumer.session,
            read_broker,
            topology,
            self._confirmed,
            lambda intake: Pipeline(
                intake, planner, self._cluster, deferred, Healed(self._announcer), None, sight=self._visibility
            ),
            rate=settings.event_log.rate,
            batch_events=settings.worker.batch_events,
        )
        self._tally = TallyKeeper(
            lambda: self._consumer.session,
            read_broker,
            topology,
            self._confirmed,
            rate=settings.event_log.rate,
            arrived=lambda: self._consumer.arrived,
            on_gap=self._gaps.keep,
        )
        self._positions = PositionKeeper(lambda: self._consumer.position, self._confirmed, topology, worker=name)

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set, then settle what is held, for at most `worker.stop_within` seconds.

        Raises:
            InvalidatorError: waiting cannot fix it (see `Consumer.run`), or a part of the worker ended by itself.
        """
        metrics.begin(
            cluster=self._settings.cluster,
            nodes=self._settings.nodes(),
            is_consuming=lambda: self._consumer.is_consuming,
            is_waiting=lambda: self._pipeline.waits_for() is not None,
        )
        consumer = asyncio.create_task(self._consumer.run(), name="consumer")
        pipeline = asyncio.create_task(self._pipeline.run(), name="pipeline")
        parts = [
            ("announcer", self._announcer.run()),
            ("receipts", self._receipts.run()),
            ("drainer", self._drainer.run()),
            ("gap keeper", self._gaps.run()),
        ]
        if self._settings.event_log.enabled:
            parts += [("healer", self._healer.run()), ("position keeper", self._positions.run())]
            parts += [("tally keeper", self._tally.run())]
        others = [asyncio.create_task(part, name=name) for name, part in parts]
        stop = asyncio.create_task(stopping.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({consumer, pipeline, stop, *others}, return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                await self._stop(pipeline)
        finally:
            self._consumer.close()
            await end((stop, pipeline, *others))
            results = await asyncio.gather(consumer, pipeline, *others, return_exceptions=True)
            await asyncio.gather(self._confirmed.close(), self._unconfirmed.close(), self._cluster.close())
            if self._visibility:
                await self._visibility.close()
        for result in results:
            if isinstance(result, Exception):
                raise _innermost(result)
        if not stopping.is_set():
            ended = ", ".join(task.get_name() for task in done)
            raise InvalidatorError(f"this worker's {ended} ended by itself; please report this bug")

    async def _stop(self, pipeline: "asyncio.Task[None]") -> None:
        seconds = self._settings.worker.stop_within
        log.info("stopping; settling what is held", within_seconds=seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._consumer.stop()  # a broker that hangs never answers this
                await asyncio.wait({pipeline})
        except TimeoutError:
            log.warning("could not settle everything in time; the broker delivers the rest to another worker")

    @property
    def tried(self) -> asyncio.Event:
        """An event that is set once the broker has been tried."""
        return self._consumer.tried

    def health(self) -> Health:
        """Return the worker's health, for systemd and over HTTP."""
        return Health(is_live=not self._pipeline.is_stuck(), is_ready=self._consumer.is_consuming, status=self.status())

    def status(self) -> str:
        """Return the worker's state in one line, for `systemctl status`."""
        down = [label for label, state in self._cluster.states().items() if state.is_open]
        parts = [
            self._consumer.state,
            "a batch is stuck" if self._pipeline.is_stuck() else None,
            self._pipeline.waits_for(),
            f"unreachable: {', '.join(down)}" if down else None,
        ]
        return "; ".join(filter(None, parts))


def _visibility_of(settings: Settings, read: Callable[[], Settings]) -> Sight | None:
    url = settings.debezium.url
    if url is None:
        return None
    try:
        from invalidator.worker.visibility import Visibility  # noqa: PLC0415  psycopg is an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}, which debezium.url needs: pip install 'invalidator[outbox]'") from error
    return Visibility(lambda: read().debezium.url or url)


async def end(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until they have ended.

    Once may not be enough: before Python 3.12 `asyncio.wait_for`, which aiormq uses, loses a cancellation that arrives
    together with the result that it waits for.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
