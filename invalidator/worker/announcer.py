"""Tells near caches and warmers what was evicted, on the exchange ``cache.purged``; never holds up anything.

An announcement may be lost. So each one carries this worker's next number, and a heartbeat every second carries the
last one: a listener that sees a number skipped, or hears nothing, forgets everything it has.
"""

import asyncio
from collections.abc import Collection, Sequence
from uuid import uuid4

import msgspec
import structlog

from invalidator import metrics
from invalidator.broker.publisher import Properties, Publisher
from invalidator.broker.topology import Topology
from invalidator.errors import InvalidatorError

HEARTBEAT_SECONDS = 1.0
#: Announcements that wait to be sent; beyond them they are dropped, which the numbers tell.
WAITING = 100

log = structlog.get_logger()


class Announcement(msgspec.Struct, omit_defaults=True):
    """What goes over the wire, as JSON; without ``keys`` it is a heartbeat."""

    cluster: str
    #: Unique to this run of this worker: numbers of another run do not continue these.
    worker: str
    #: Of this announcement; in a heartbeat, of the last one before it.
    number: int
    keys: list[str] = []
    events: list[str] = []
    #: Nodes on which these keys are not evicted yet, but owed.
    parked: list[str] = []


class Announcer:
    """Numbers announcements and sends them in order, from a task of its own."""

    def __init__(self, publisher: Publisher, topology: Topology, *, worker: str) -> None:
        self._publisher = publisher
        self._topology = topology
        self._worker = f"{worker}.{uuid4().hex[:8]}"
        self._number = 0
        self._waiting: asyncio.Queue[Announcement] = asyncio.Queue(WAITING)
        self._reachable = True

    def announce(self, keys: Sequence[bytes], event_ids: Sequence[str] = (), parked: Collection[str] = ()) -> None:
        """Queue an announcement; a full queue drops it."""
        if not keys:
            return
        self._number += 1
        names = [key.decode("ascii") for key in keys]
        message = Announcement(
            self._topology.cluster, self._worker, self._number, names, list(event_ids), sorted(parked)
        )
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            metrics.ANNOUNCEMENTS_DROPPED.inc()

    async def run(self) -> None:
        """Send announcements, and a heartbeat whenever a second passes without one."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    message = await self._waiting.get()
            except TimeoutError:
                message = Announcement(self._topology.cluster, self._worker, self._number)
            await self._send(message)

    async def _send(self, message: Announcement) -> None:
        try:
            await self._publisher.publish(
                msgspec.json.encode(message),
                exchange=self._topology.purged,
                routing_key=self._topology.cluster,
                properties=Properties(content_type="application/json", message_type="purged"),
                mandatory=False,
            )
        except InvalidatorError as error:
            metrics.ANNOUNCEMENTS_DROPPED.inc()
            if self._reachable:
                log.warning("announcements are being lost; near caches will notice", reason=str(error))
            self._reachable = False
            await asyncio.sleep(HEARTBEAT_SECONDS)
        else:
            self._reachable = True
