"""A worker put together from its settings, started, watched and stopped.

    Consumer ─> Pipeline ─> Cluster          the path of a batch (see pipeline.py)
                   └─────> Outlet ─┬─> ConfirmedPublisher (debts, dead letters)
                                   └─> Announcer, Receipts ─> ConfirmedPublisher (what may be lost)
    Drainer ─> Cluster                       debts, when their node is back

Three AMQP connections: one only consumes, one publishes what must not be lost, one what may be.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Collection
from typing import Any

import structlog

from invalidator.assemble import again_of, client_properties, cluster_of, rules_of
from invalidator.broker.address import connection_name
from invalidator.broker.consumer import Consumer
from invalidator.broker.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError
from invalidator.runtime import metrics
from invalidator.runtime.health import Health
from invalidator.settings import BrokerSettings, Settings
from invalidator.worker.announcer import Announcer
from invalidator.worker.deferred import Outlet
from invalidator.worker.drainer import Drainer
from invalidator.worker.pipeline import Pipeline
from invalidator.worker.planner import Planner
from invalidator.worker.receipts import Receipts
from invalidator.worker.reporting import node_changed, report_gap

#: Seconds after which what was cancelled and has not ended is cancelled again.
CANCEL_AGAIN_SECONDS = 0.5

log = structlog.get_logger()


class Worker:
    """One process of one cluster."""

    def __init__(self, settings: Settings, *, broker: Callable[[], BrokerSettings] | None = None) -> None:
        """Raises `ConfigurationError` where the settings cannot work; connects nothing yet.

        ``broker`` is asked before every connection, so that a changed password is read again.
        """
        read_broker = broker or (lambda: settings.broker)
        self._settings = settings
        topology = Topology.of(settings)
        name = f"{settings.cluster}.{socket.gethostname()}.{os.getpid()}"
        properties = client_properties(settings)

        def publisher(doing: str, *, confirms: bool) -> ConfirmedPublisher:
            named = connection_name("worker", settings.cluster, doing)
            return ConfirmedPublisher(read_broker, name=named, properties=properties, confirms=confirms)

        self._lasting = publisher("publishes", confirms=True)
        self._fleeting = publisher("announces", confirms=False)
        self._cluster = cluster_of(settings, on_change=node_changed)
        self._announcer = Announcer(self._fleeting, topology, worker=name)
        planner = Planner(rules_of(settings), body_bytes=settings.limits.body_bytes, again=again_of(settings))
        self._receipts = Receipts(
            self._fleeting, planner, cluster=settings.cluster, worker=name, prefix=settings.broker.reply_prefix
        )
        outlet = Outlet(
            self._lasting,
            self._announcer,
            self._receipts,
            topology,
            worker=name,
            parked_limit=settings.worker.parked_limit,
            event_keys=settings.limits.event_keys,
        )
        self._consumer = Consumer(
            read_broker,
            topology,
            tag=f"{settings.broker.prefix}.{name}",
            batch_events=settings.worker.batch_events,
            buffer_bytes=settings.worker.buffer_bytes,
            properties=properties,
            on_gap=report_gap,
        )
        self._pipeline = Pipeline(
            self._consumer,
            planner,
            self._cluster,
            outlet,
            in_flight=settings.worker.batches_in_flight,
        )
        self._drainer = Drainer(
            lambda: self._consumer.session,
            topology,
            self._cluster,
            outlet,
            tag=f"{settings.broker.prefix}.{name}",
            declares=settings.broker.declare == "active",
            on_gap=report_gap,
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until ``stopping`` is set, then settle what is held, for at most `worker.stop_within` seconds.

        Raises:
            InvalidatorError: what no waiting fixes, see `Consumer.run`; or a part of it ended without being told to.
        """
        metrics.begin(
            cluster=self._settings.cluster,
            nodes=self._settings.nodes(),
            is_consuming=lambda: self._consumer.is_consuming,
            is_waiting=lambda: self._pipeline.waits_for() is not None,
        )
        consumer = asyncio.create_task(self._consumer.run(), name="consumer")
        pipeline = asyncio.create_task(self._pipeline.run(), name="pipeline")
        others = [
            asyncio.create_task(part, name=name)
            for name, part in (
                ("announcer", self._announcer.run()),
                ("receipts", self._receipts.run()),
                ("drainer", self._drainer.run()),
            )
        ]
        stop = asyncio.create_task(stopping.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({consumer, pipeline, stop, *others}, return_when=asyncio.FIRST_COMPLETED)
            if stop in done:
                await self._stop(pipeline)
        finally:
            self._consumer.close()
            await end((stop, pipeline, *others))
            results = await asyncio.gather(consumer, pipeline, *others, return_exceptions=True)
            await asyncio.gather(self._lasting.close(), self._fleeting.close(), self._cluster.close())
        for result in results:
            if isinstance(result, Exception):
                raise _innermost(result)
        if not stopping.is_set():
            ended = ", ".join(task.get_name() for task in done)
            raise InvalidatorError(f"this worker's {ended} ended without a reason; please report this")

    async def _stop(self, pipeline: "asyncio.Task[None]") -> None:
        seconds = self._settings.worker.stop_within
        log.info("stopping: settling what is held, taking nothing new", within_seconds=seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._consumer.stop()  # which a broker that hangs never answers
                await asyncio.wait({pipeline})
        except TimeoutError:
            log.warning("not all could be settled in time; the broker delivers the rest to another worker")

    @property
    def tried(self) -> asyncio.Event:
        """Set once the broker has been tried."""
        return self._consumer.tried

    def health(self) -> Health:
        """How it stands, for whoever asks over HTTP."""
        return Health(is_live=not self._pipeline.is_stuck(), is_ready=self._consumer.is_consuming, status=self.status())

    def status(self) -> str:
        """One line on how it stands, for `systemctl status`."""
        down = [label for label, state in self._cluster.states().items() if state.is_open]
        parts = [
            self._consumer.state,
            "a batch is stuck" if self._pipeline.is_stuck() else None,
            self._pipeline.waits_for(),
            f"unreachable: {', '.join(down)}" if down else None,
        ]
        return "; ".join(filter(None, parts))


async def end(tasks: Collection["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until they have ended.

    Once may not be enough: before Python 3.12 `asyncio.wait_for`, with which aiormq waits, forgets a cancellation that
    comes together with what it waits for.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
