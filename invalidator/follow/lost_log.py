"""Log that nobody has read: the gap is stored for every cluster before a new slot is made.

A slot is lost when the server deletes log that it should have kept (max_slot_wal_keep_size), or when somebody drops it,
or when a standby without it is promoted. What was committed from its position on until the new slot begins is missing.
The gap travels as an event, like the changes that are missing, so each cluster keeps it until its flush.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg

from invalidator.app.publish.message import message
from invalidator.broker.address import connection_name
from invalidator.broker.gap import Gap
from invalidator.broker.publish.confirms import properties_of
from invalidator.broker.publish.pipelined_publisher import PipelinedPublisher
from invalidator.events.event import GAP
from invalidator.follow import lsn, slot
from invalidator.follow.progress import START, Position
from invalidator.follow.timeline import end_of_log
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.settings import BrokerSettings

log = Log(__name__)


async def begin_again(
    connection: "psycopg.AsyncConnection[Any]", broker: BrokerSettings, name: str, *, since: Position, why: str
) -> None:
    """Report the log from `since` on as a gap, and make the slot anew.

    Creating a slot waits for open transactions, so what is written meanwhile is a second gap. The first one is stored
    before: a crash in between must not lose it.

    Raises:
        InvalidatorError: broker or database did not do their part; begin again with the same `since`.
    """
    now = Position((await end_of_log(connection)).lsn, datetime.now(UTC))
    await report(broker, name, since=since, until=now, why=why)
    await slot.drop_slot(connection, name)
    await slot.create_slot(connection, name)
    found = await slot.inspect(connection, name)
    if found and found.confirmed > now.lsn:
        await report(broker, name, since=now, until=Position(found.confirmed, datetime.now(UTC)), why=why)


async def report(broker: BrokerSettings, name: str, *, since: Position, until: Position, why: str) -> None:
    """Publish a gap, so that every cluster keeps it; `until` has a time. Raises as `PipelinedPublisher.publish`."""
    assert until.time
    begin = "unknown" if since.lsn == START.lsn else lsn.to_text(since.lsn)
    gap = Gap(since.time, until.time, f'{why} (slot "{name}", log from {begin} to {lsn.to_text(until.lsn)})')
    await _publish(broker, name, gap)
    metrics.FOLLOW_GAPS.inc()
    log.error('gap: changes were missed; stale values may be served until you run "invalidator flush"', gap=str(gap))


async def _publish(broker: BrokerSettings, name: str, gap: Gap) -> None:
    publisher: PipelinedPublisher[None] = PipelinedPublisher(
        broker, name=connection_name("follow", name), confirmed=lambda _: None
    )
    event = message(GAP, msgspec.to_builtins(gap), app_id="invalidator-follow")
    try:
        await publisher.open()
        await publisher.publish(event.body, properties_of(event.properties()))
        await publisher.flush()
    finally:
        await publisher.close()
