"""The times of the oldest events that may not be settled, in a queue of their own: they outlive every worker.

A gap that is found by the next worker began at the earliest of them.
"""

from datetime import datetime

import msgspec
from msgspec import Struct

from invalidator.broker.connection import Connection
from invalidator.broker.gaps import messages_of
from invalidator.broker.messages import read_own
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.topology import Topology


class Position(Struct, frozen=True):
    """The time before which one worker has settled every event that it received."""

    worker: str
    settled_until: datetime
    #: True if no other worker consumed and nothing waited: what other workers stored before is obsolete.
    is_everything: bool = False


async def remember_position(publisher: ConfirmedPublisher, topology: Topology, position: Position) -> None:
    """Store a position. Raises `InvalidatorError` if it is not confirmed."""
    await publisher.publish(
        msgspec.json.encode(position),
        exchange="",
        routing_key=topology.position,
        properties=Properties(content_type="application/json", message_type="position"),
    )


async def remembered_position(connection: Connection, topology: Topology) -> datetime | None:
    """Return the time before which the cluster has settled every event, None if no worker has stored one.

    Raises:
        RefusedError: this user may not read the queue.
        UnreachableError: the broker is gone.
    """
    async with messages_of(connection, topology.position) as (_, stored):
        return earliest(list(filter(None, (read_own(body, Position) for _, body in stored))))


def earliest(positions: list[Position]) -> datetime | None:
    """Return the earliest of the workers' last positions. Pure."""
    latest: dict[str, datetime] = {}
    for position in positions:
        if position.is_everything:
            latest.clear()
        latest[position.worker] = position.settled_until
    return min(latest.values(), default=None)
