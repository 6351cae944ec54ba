"""Reading the log of events, or that of the evictions, for a command, from a time to now."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from invalidator.broker.address import connection_name
from invalidator.broker.consume.session import Session
from invalidator.broker.event_log import PREFETCH, beginning, events_before, log_session, offset_of, put_mark
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.broker.wire.delivery import Delivery
from invalidator.errors import UnreachableError
from invalidator.settings import Settings

#: Seconds in which the log gives its next events.
READ_SECONDS = 10.0


class LogReading:
    """The logged events from a time on."""

    def __init__(
        self, session: Session, queue: str, since: datetime, *, mark: str, log_begins: datetime | None
    ) -> None:
        self._session = session
        self._queue = queue
        self._since = since
        self._mark = mark
        #: The time of the log's first event, if it is later than the beginning that was asked for.
        self.log_begins = log_begins if log_begins and log_begins > since else None

    async def batches(self) -> AsyncIterator[list[Delivery]]:
        """Yield the events, oldest first; the first ones may be older than asked for.

        Raises:
            RefusedError: this user may not read the log.
            UnreachableError: the broker was lost.
        """
        arguments, is_at_the_mark = offset_of(self._since), False
        log = await self._session.subscribe(self._queue, tag="reading", prefetch=PREFETCH, arguments=arguments)
        while not is_at_the_mark:
            if (batch := await log.batch_within(READ_SECONDS, PREFETCH)) is None:
                raise UnreachableError("reading the log ended before its end; try again")
            events, _, is_at_the_mark = events_before(self._mark, batch.deliveries)
            await log.settle(batch)  # before the events are used, so that the broker goes on meanwhile
            yield events


@asynccontextmanager
async def reading_log(settings: Settings, since: datetime, *, doing: str, queue: str = "") -> AsyncIterator[LogReading]:
    """Yield the log, or another stream, to be read up to now, which a mark shows.

    Raises:
        UnreachableError: there is no log, or no broker answers.
        RefusedError: this user may not publish the mark, or read the log.
    """
    topology, name = Topology.of(settings), connection_name(doing, settings.cluster)
    publisher = ConfirmedPublisher(lambda: settings.broker, name=name)
    try:
        queue = queue or topology.log
        async with log_session(settings.broker, queue, name) as session:
            mark = await put_mark(publisher, topology, queue=queue)
            begins = await beginning(session, queue)
            yield LogReading(session, queue, since, mark=mark, log_begins=begins.at)
    finally:
        await publisher.close()
