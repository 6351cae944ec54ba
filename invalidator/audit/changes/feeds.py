"""Everything that an auditor receives changes from: the database's log if there is a `follow.url`, and the events."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from invalidator.assemble import type_source_of
from invalidator.audit.changes.event_feed import EventFeed, Logged, product_updates
from invalidator.audit.changes.sampling import Sample
from invalidator.broker.address import connection_name
from invalidator.broker.consume.listener import listen
from invalidator.errors import ConfigurationError
from invalidator.events.followed import is_change
from invalidator.events.rules import Rules
from invalidator.runtime import metrics
from invalidator.settings import Settings


class Receiver(Protocol):
    """The object that receives changes."""

    def published(self, key: str) -> None:
        """Take an event that makes this key."""

    def changed(self, key: str) -> None:
        """Take a change of this key."""

    def committed(self, key: str, commit: int) -> None:
        """Take a change of this key, with the position of its commit in the log."""

    def lost(self) -> None:
        """Take the loss of a feed: changes were missed."""


class Rows(Protocol):
    """The feed of rows from the database's log."""

    @property
    def is_linked(self) -> bool: ...
    async def listen(self) -> None: ...
    async def catch_up(self) -> bool: ...
    async def is_unpublished(self, commit: int) -> bool: ...


class Feeds:
    """The feeds of one auditor."""

    def __init__(
        self, settings: Settings, rules: Rules, sample: Sample, receiver: Receiver, *, read: Callable[[], Settings]
    ) -> None:
        """Connect nothing yet; `read` is called before every connection."""
        has_log = settings.follow.url is not None
        self._cluster = settings.cluster
        self._read = read
        #: False if every change is in the log.
        self._needs_events = not has_log or not all(is_change(rule.on) for rule in settings.rule)
        self._rows = _rows_of(settings, rules, sample, receiver, read=read) if has_log else None
        self._events = EventFeed(
            rules,
            sample,
            receiver.published,
            receiver.changed,
            receiver.lost if self._needs_events else lambda: None,
            logged=Logged(settings.rule) if has_log else None,
            source=type_source_of(settings),
            body_bytes=settings.limits.body_bytes,
        )

    def __str__(self) -> str:
        """Return the sources of changes, in words."""
        if self._rows is None:
            return EVENTS_ONLY
        return "PostgreSQL's log, and events" if self._needs_events else "PostgreSQL's log"

    @property
    def waits_for(self) -> str | None:
        """The server without which changes are missed, if there is one."""
        if self._rows and not self._rows.is_linked:
            return "the database"
        return "the broker" if self._needs_events and not self._events.is_linked else None

    @property
    def events_since(self) -> float:
        """The moment since which no event was missed, on the monotonic clock."""
        return self._events.since

    async def listen(self) -> None:
        """Receive changes until cancelled."""
        if self._needs_events:
            metrics.AUDIT_LISTENING.labels("events").set_function(lambda: self._events.is_linked)
        async with asyncio.TaskGroup() as tasks:
            name = connection_name("audit", self._cluster)
            events = listen(lambda: self._read().broker, product_updates(self._cluster), self._events, name=name)
            tasks.create_task(events)
            if rows := self._rows:
                metrics.AUDIT_LISTENING.labels("log").set_function(lambda: rows.is_linked)
                tasks.create_task(rows.listen())

    async def catch_up(self) -> bool:
        """Receive every change of the log up to this moment; return False if that cannot be done soon."""
        return self._rows is None or await self._rows.catch_up()

    async def is_unpublished(self, commit: int) -> bool:
        """Return True if a follower's slot still holds the commit at this position."""
        return self._rows is not None and await self._rows.is_unpublished(commit)


#: A description that commands recognise.
EVENTS_ONLY = "events only"


def _rows_of(
    settings: Settings, rules: Rules, sample: Sample, receiver: Receiver, *, read: Callable[[], Settings]
) -> Rows:
    try:
        from invalidator.audit.changes.row_feed import RowFeed  # noqa: PLC0415  psycopg is an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}, which follow.url needs: pip install 'invalidator[outbox]'") from error
    return RowFeed(settings, rules, sample, receiver.committed, receiver.lost, read=read)
