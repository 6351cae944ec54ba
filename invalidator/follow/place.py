"""The follower's place in the log, kept across its sessions. Log that is missing from there on is a gap.

    set back     the database was restored to an earlier state, or a standby was promoted that lacked the last changes
    no slot      somebody dropped it, or the database was promoted or restored without it
    lost slot    the server has deleted log that it should have kept (max_slot_wal_keep_size)

A process that has just been started knows only the slot's own place: it cannot tell that a database was set back.
"""

from datetime import UTC, datetime
from typing import Any

import psycopg

from invalidator.errors import ConfigurationError
from invalidator.follow import slot
from invalidator.follow.lost_log import begin_again, report
from invalidator.follow.progress import START, Position
from invalidator.follow.timeline import End, end_of_log, forgotten_from
from invalidator.settings import BrokerSettings, FollowSettings


class Place:
    """The last confirmed position, and how much of which timeline was seen."""

    def __init__(self) -> None:
        self._position = START
        #: The end of the log as far as the server has named it; None before the first session.
        self._seen: End | None = None

    def reached(self, position: Position, *, seen: int = 0) -> None:
        """Note a position that is confirmed, or the one where the slot stands, and how far the server's log went."""
        self._position = max(self._position, position, key=_lsn)
        if self._seen:
            self._seen = End(self._seen.timeline, max(self._seen.lsn, seen))

    async def assert_whole(
        self, connection: "psycopg.AsyncConnection[Any]", follow: FollowSettings, broker: BrokerSettings
    ) -> None:
        """Return once the slot is there, and what is missing of the log before it has been reported.

        Raises:
            ConfigurationError: there is no slot, and there never was one as far as this process knows.
            InvalidatorError: broker or database did not do their part; call this again.
        """
        now = await end_of_log(connection)
        has_moved = self._seen is not None and self._seen.timeline != now.timeline
        await self._assert_not_set_back(now, follow, broker)
        found = await slot.inspect(connection, follow.slot)
        if found is None and self._seen is None:
            raise ConfigurationError(f'the database has no slot "{follow.slot}": invalidator follow --create')
        if found is None:
            why = "the database was promoted or restored without its replication slot"
            why = why if has_moved else "the replication slot was dropped"
            await begin_again(connection, broker, follow.slot, since=self._position, why=why)
        elif found.is_lost:
            self.reached(Position(found.confirmed))
            why = "the database has deleted log that was not read"
            await begin_again(connection, broker, follow.slot, since=self._position, why=why)
        self._seen = now

    async def _assert_not_set_back(self, now: End, follow: FollowSettings, broker: BrokerSettings) -> None:
        """Report changes that were seen and that the database does not have any more."""
        assert follow.url
        if self._seen is None or (since := await forgotten_from(follow.url.reveal(), self._seen, now)) is None:
            return
        until = Position(self._seen.lsn, datetime.now(UTC))
        why = "the database was set back to an earlier state"
        await report(broker, follow.slot, since=Position(since), until=until, why=why)
        self._position = min(self._position, Position(since), key=_lsn)
        self._seen = now


def _lsn(position: Position) -> int:
    return position.lsn
