"""The keys of committed changes, from PostgreSQL's own log: those that nobody published are in it, too.

    a slot of the auditor's own ─> committed rows ─> the rules' keys ─> the sample ─> wait until new reads see them

Rules of this file:

1. The slot is temporary: the server drops it with the connection, so an auditor that is away retains no log. Changes
   that were committed meanwhile are missed, and that time is not covered.
2. Each table of the rules has to be in the publication. With one of them left out nothing is covered.
3. Every position is confirmed at once: there is nothing that would have to be read again.
4. The primary is asked what new reads see for sampled changes only.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import psycopg

from invalidator.app.publish.message import CONTENT_TYPE, Message
from invalidator.audit.changes.sampling import Sample
from invalidator.broker.connection import pause
from invalidator.errors import ConfigurationError, InvalidatorError, PoisonError
from invalidator.events.event import decode
from invalidator.events.rules import Rules
from invalidator.follow import lsn, slot
from invalidator.follow.changes import commit_of
from invalidator.follow.progress import Position
from invalidator.follow.reader import LogReader
from invalidator.follow.setup import database, tables
from invalidator.postgres.connection import fetch
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.settings import Settings

#: Seconds for the log to be read up to a position of this moment, and between two questions how far it is read.
CATCH_UP_SECONDS, ASK_SECONDS = 5.0, 0.02
#: The headers of a page of the log, between the end of one record and the place of the next: short, long.
PAGE, PAGE_HEADERS = 8192, (24, 40)

log = Log(__name__)


class RowFeed:
    """A reader of the log that hands on the sampled keys of each row, with the position of its commit."""

    def __init__(
        self,
        settings: Settings,
        rules: Rules,
        sample: Sample,
        changed: Callable[[str, int], None],
        lost: Callable[[], None],
        *,
        read: Callable[[], Settings],
    ) -> None:
        """Call `changed` with each sampled key, and `lost` when the log is lost; `read` before each connection."""
        self._tables = tables(settings)
        self._types = {rule.on for rule in settings.rule}
        self._body_bytes = settings.limits.body_bytes
        self._cluster = settings.cluster
        self._rules = rules
        self._sample = sample
        self._changed = changed
        self._lost = lost
        self._read = read
        self._outage = Outage(log.warning, "not receiving changes of rows; will try again")
        self._database: psycopg.AsyncConnection[Any] | None = None
        self._reader: LogReader | None = None
        #: The position up to which the log was read.
        self._position = 0

    @property
    def is_linked(self) -> bool:
        return self._reader is not None

    async def listen(self) -> None:
        """Hand on every change until cancelled; begin again, from then on, after the log was lost."""
        while True:
            try:
                await self._link()
            except InvalidatorError as error:
                self._outage.lasts(str(error))
            await asyncio.sleep(pause())

    async def catch_up(self) -> bool:
        """Read the log up to this moment; return False if that takes too long, or if the log is lost."""
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                until = await self._now()
                while self._reader and self._position < until:
                    self._reader.confirm(self._position, at_once=True)
                    await asyncio.sleep(ASK_SECONDS)
        except (TimeoutError, InvalidatorError):
            return False
        return self.is_linked

    async def is_unpublished(self, commit: int) -> bool:
        """Return True if a follower's slot still holds this commit: its event is on its way."""
        try:
            found = await slot.inspect(self._connected(), self._read().follow.slot)
        except InvalidatorError:
            return False
        return found is not None and not found.is_lost and found.confirmed <= commit

    async def _link(self) -> None:
        """Read the log from its connection to its loss; raises as `LogReader.items`."""
        settings = self._read()
        async with database(settings) as connection:
            await self._assert_published(connection, settings.follow.publication)
            name = slot_name(self._cluster)
            reader = await LogReader.open(settings.follow, connection, types=self._types, temporary_slot=name)
            self._database, self._reader, self._position = connection, reader, 0
            try:
                self._outage.ends()
                log.info("receiving changes of rows", slot=name, tables=self._tables)
                await self._receive(reader)
            finally:
                self._database = self._reader = None
                self._lost()
                await reader.close()

    async def _receive(self, reader: LogReader) -> None:
        async for item in reader.items(waits=False):
            if isinstance(item, Position):
                self._position = item.lsn
                reader.confirm(item.lsn)
            elif keys := self._sample.of(self._rules, self._keys(item)):
                await reader.visible()
                for key in keys:
                    self._changed(key, commit_of(item.id))

    def _keys(self, message: Message) -> Sequence[str]:
        """Return the keys of a change, not checked yet; no key of one that a worker would refuse."""
        try:
            event = decode(message.body, message.type, limit=self._body_bytes, content_type=CONTENT_TYPE)
            return self._rules.texts(event)
        except PoisonError:
            return ()

    async def _now(self) -> int:
        """Return the end of the log. Whatever a read has seen was committed before it."""
        ((text,),) = await fetch(self._connected(), "SELECT pg_current_wal_insert_lsn()::text")
        return end_of_record(lsn.from_text(text))

    def _connected(self) -> "psycopg.AsyncConnection[Any]":
        if self._database is None:
            raise ConfigurationError("the log is not being read")
        return self._database

    async def _assert_published(self, connection: "psycopg.AsyncConnection[Any]", publication: str) -> None:
        found = await slot.published(connection, publication)
        if found is None:
            raise ConfigurationError(f"there is no publication {publication}: {CREATE}")
        if missing := sorted(set(self._tables) - found.tables):
            raise ConfigurationError(f"the publication {publication} leaves out {', '.join(missing)}: {CREATE}")


CREATE = "invalidator follow --create, as the owner of the tables"


def end_of_record(position: int) -> int:
    """Return the end of the last record before the place of the next one, which may be behind the header of a page."""
    return position - position % PAGE if position % PAGE in PAGE_HEADERS else position


def slot_name(cluster: str) -> str:
    """Return a name that no other slot has: the server may not have noticed yet that an earlier one is over."""
    return f"invalidator_audit_{re.sub('[^a-z0-9_]', '_', cluster.lower())[:32]}_{uuid4().hex[:8]}"
