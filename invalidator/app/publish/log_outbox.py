"""An outbox without a table: events in PostgreSQL's own log, which `invalidator follow` reads.

the application's transaction: UPDATE product …; append(connection, event); COMMIT
                                                      │ pg_logical_emit_message
invalidator follow: read the log ─> publish ─> confirmed ─> move the slot on
"""

from collections.abc import Iterable
from itertools import islice

import sqlalchemy as sa

from invalidator.app.publish.message import message
from invalidator.errors import ConfigurationError, PoisonError
from invalidator.events.event import Event

#: Events in one statement.
CHUNK = 1000


class LogOutbox:
    """Writes events into the log, to be published once the transaction is committed, in the order of the commits.

    Make one with `Outbox.in_log`. The server needs ``wal_level = logical`` and a follower's slot; without them events
    are lost.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def append(self, connection: sa.Connection, event: Event, *, entity: str | None = None) -> None:
        """Append an event as `Outbox.append` does; ``entity`` is not needed, because the log keeps the order of all.

        Raises:
            PoisonError: no worker could read the event.
            ConfigurationError: the database is not PostgreSQL.
        """
        self._emit(connection, [_body(event)])

    def append_many(self, connection: sa.Connection, events: Iterable[Event], *, entity: str = "id") -> None:
        """Append events in order, as `append` does with each.

        Raises:
            PoisonError: no worker could read one; the text names its position. Roll the transaction back.
            ConfigurationError: the database is not PostgreSQL.
        """
        bodies = (_body(event, position) for position, event in enumerate(events))
        while chunk := list(islice(bodies, CHUNK)):
            self._emit(connection, chunk)

    def _emit(self, connection: sa.Connection, bodies: list[str]) -> None:
        if connection.dialect.name != "postgresql":
            raise ConfigurationError(f"the log is PostgreSQL's: use Outbox(), a table, on {connection.dialect.name}")
        body = sa.func.unnest(sa.literal(bodies, sa.ARRAY(sa.Text))).column_valued("body")
        connection.execute(sa.select(sa.func.pg_logical_emit_message(sa.true(), self._prefix, body)))


def _body(event: Event, position: int | None = None) -> str:
    try:
        return message(event.type, event.fields, app_id="").body.decode()
    except PoisonError as error:
        raise error if position is None else PoisonError(error.reason, f"event {position}: {error}") from error
