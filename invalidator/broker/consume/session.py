"""A session: one connection that reads, through which queues are inspected, declared and consumed."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from invalidator.broker.connection import Connection, close, connect_tapped
from invalidator.broker.consume.subscription import BUFFER_BYTES, Subscription
from invalidator.broker.declare import QueueInspector, declare
from invalidator.broker.topology import Topology
from invalidator.broker.wire.transport import TappedProtocol
from invalidator.settings import BrokerSettings


class Session:
    """One connection and what reads through it; whatever ends it, the next one starts from nothing."""

    def __init__(self, connection: Connection, tapped: TappedProtocol | None) -> None:
        self.connection = connection
        #: The protocol from which subscriptions take their deliveries; None: they take them from aiormq.
        self._tapped = tapped
        self._inspector = QueueInspector(connection)
        #: When the log was seen to be there, before anything was consumed.
        self.log_seen_at: datetime | None = None
        #: When a broker was last looked for in vain before, until a mark in the log says so.
        self.missed_since: datetime | None = None

    @classmethod
    async def open(cls, broker: BrokerSettings, *, name: str, properties: dict[str, Any] | None = None) -> "Session":
        """Connect to the first broker address that answers; raises as `connect` does."""
        connection, protocol = await connect_tapped(broker, name=name, properties=properties)
        return cls(connection, protocol if broker.consumer == "tap" else None)

    async def inspect(self, queue: str) -> tuple[int, int] | None:
        """Return a queue's (messages ready, consumers), None if there is no such queue."""
        return await self._inspector.inspect(queue)

    async def declare(self, topology: Topology) -> None:
        """Declare what is missing; raises as `invalidator.broker.declare.declare` does."""
        await declare(self.connection, topology)

    async def subscribe(
        self,
        queue: str,
        *,
        tag: str,
        prefetch: int,
        buffer_bytes: int = BUFFER_BYTES,
        arguments: dict[str, Any] | None = None,
        on_ready: Callable[[], None] | None = None,
    ) -> Subscription:
        """Consume from a queue; see `Subscription.open`."""
        return await Subscription.open(
            self.connection,
            queue,
            tag=tag,
            prefetch=prefetch,
            tapped=self._tapped,
            buffer_bytes=buffer_bytes,
            arguments=arguments,
            on_ready=on_ready,
        )

    async def close(self) -> None:
        """Close the connection, with which everything unsettled is the broker's again; never raises."""
        await close(self.connection)
