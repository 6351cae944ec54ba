"""Events in a table of the application's own database, committed or rolled back together with the change.

    the application's transaction: UPDATE product …; Outbox.append(connection, event); COMMIT
                                                                         │
    invalidator relay: read ─> publish ─> confirmed ─> delete

Rules of this file:

1. A row is deleted only after its event was confirmed. A relay that dies before that leaves the row to the next relay,
   which publishes the event again, under the same id.
2. Order is kept per entity. Every entity belongs to one shard, and every shard to one relay at a time (see
   `invalidator.relay.claims`), which publishes in the order of the ids.
3. Ids are given at the append, not at the commit. Of two transactions that change the same entity, the second waits for
   the first at the row that both change. So append after the change, and ids are in the order of the commits. No id is
   used again.
"""

import json
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Executable,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.dialects.mysql import DATETIME, LONGBLOB, TEXT

from invalidator.app.publish.log_outbox import LogOutbox
from invalidator.app.publish.message import Message, message
from invalidator.errors import PoisonError
from invalidator.events.event import Event

#: The default name of the table.
TABLE = "invalidator_outbox"
#: The number of groups of entities that relays share among themselves. A power of two.
SHARDS = 64
#: Rows in one statement.
CHUNK = 1000

#: Dialects of SQLAlchemy that are one database here.
MARIADB = ("mariadb", "mysql")
#: The function that makes a number of an entity, which SQLite does not need.
_HASHES = {"postgresql": func.hashtext, "mariadb": func.crc32, "mysql": func.crc32}

# SQLite assigns ids only in a column of type INTEGER. MariaDB compares texts without case by default, keeps 64 KiB in a
# BLOB, and whole seconds in a DATETIME.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")
_TEXT = Text().with_variant(TEXT(charset="utf8mb4", collation="utf8mb4_bin"), *MARIADB)
_BYTES = LargeBinary().with_variant(LONGBLOB, *MARIADB)
_TIME = DateTime(timezone=True).with_variant(DATETIME(fsp=6), *MARIADB)

#: With `WHERE id IN (…)` MariaDB may read the whole table, and then waits for every row that an application has not
#: committed yet. This looks each id up.
_DELETE_EACH = (
    "DELETE waiting FROM JSON_TABLE(:ids, '$[*]' COLUMNS (id BIGINT PATH '$')) published"
    " STRAIGHT_JOIN {table} waiting FORCE INDEX (PRIMARY) ON waiting.id = published.id"
)


class Outbox:
    """The table that holds events from the application's commit until `invalidator relay` has published them.

    ::

        outbox = Outbox(app_id="shop")
        with engine.begin() as connection:
            connection.execute(update(products).where(products.c.id == 17).values(price=109.99))
            outbox.append(connection, Event("product_updated", {"id": 17, "price": 109.99}))

    `table` is its name; set `outbox.table` of the relay's settings to the same. With an ORM session, append to
    `session.connection()`.
    """

    def __init__(self, table: str = TABLE, *, app_id: str = "") -> None:
        self._app_id = app_id
        #: For migrations. Its metadata holds no other table.
        self.table = Table(
            table,
            MetaData(),
            Column("id", _NUMBER, primary_key=True),
            Column("entity", _TEXT, nullable=False),
            Column("type", _TEXT, nullable=False),
            Column("body", _BYTES, nullable=False),
            Column("message_id", String(32), nullable=False),
            Column("time", _TIME, nullable=False),
            Column("app_id", _TEXT, nullable=False),
            sqlite_autoincrement=True,  # or an empty table begins with 1 again, while a relay still skips the old 1
        )

    @staticmethod
    def in_log(prefix: str = "invalidator") -> LogOutbox:
        """Return an outbox without a table: PostgreSQL's own log, which `invalidator follow` reads.

        ``prefix`` is that of `follow.prefix` in the follower's settings.
        """
        return LogOutbox(prefix)

    def create(self, engine: Engine) -> None:
        """Create the table if it does not exist."""
        self.table.metadata.create_all(engine)

    def append(self, connection: Connection, event: Event, *, entity: str | None = None) -> None:
        """Append an event, which is published once the transaction is committed, and never if it is rolled back.

        Events of one `entity` are published in the order in which they were appended. The default entity is the event's
        field ``id``.

        Raises:
            PoisonError: no worker could read the event.
        """
        row = self._row(event)
        connection.execute(insert(self.table), row if entity is None else row | {"entity": entity})
        _wake_relays(connection, self.table)

    def append_many(self, connection: Connection, events: Iterable[Event], *, entity: str = "id") -> None:
        """Append events in order, as `append` does with each; the entity of each is its field of the name ``entity``.

        Raises:
            PoisonError: no worker could read one; the text names its position. Roll the transaction back.
        """
        rows = (self._row(event, position, entity) for position, event in enumerate(events))
        while chunk := list(islice(rows, CHUNK)):
            connection.execute(insert(self.table), chunk)
        _wake_relays(connection, self.table)

    def read(
        self,
        connection: Connection,
        *,
        limit: int,
        after: int = 0,
        shards: Collection[int] | None = None,
        without: Collection[str] = (),
    ) -> "list[OutboxEvent]":
        """Return events in the order of their ids, from ``after`` on.

        ``shards`` restricts them to these shards of entities, ``without`` leaves entities out.
        """
        columns = self.table.c
        chosen = select(*(columns[name] for name in _COLUMNS)).where(columns.id > after)
        if shards is not None:
            number = _HASHES[connection.dialect.name](columns.entity)
            chosen = chosen.where(number.op("&")(SHARDS - 1).in_(shards))
        if without:
            chosen = chosen.where(columns.entity.not_in(without))
        return [_event(tuple(row)) for row in connection.execute(chosen.order_by(columns.id).limit(limit))]

    def backlog(self, connection: Connection) -> tuple[int, datetime | None]:
        """Return the number of waiting events, and the time at which the oldest was appended."""
        count, oldest = connection.execute(select(func.count(), func.min(self.table.c.time))).one()
        return count, _in_utc(oldest) if oldest else None

    def forget(self, connection: Connection, events: "Iterable[OutboxEvent]") -> None:
        """Delete events that were published."""
        ids = iter([event.id for event in events])
        while chunk := list(islice(ids, CHUNK)):
            connection.execute(self._deletion(connection.dialect, chunk))

    def _deletion(self, dialect: Dialect, ids: list[int]) -> Executable:
        if dialect.name in MARIADB:
            table = dialect.identifier_preparer.quote(self.table.name)
            return text(_DELETE_EACH.format(table=table)).bindparams(ids=json.dumps(ids))
        if dialect.name == "postgresql":
            return delete(self.table).where(self.table.c.id == func.any(literal(ids, ARRAY(BigInteger))))
        return delete(self.table).where(self.table.c.id.in_(ids))

    def _row(self, event: Event, position: int | None = None, entity: str = "id") -> dict[str, Any]:
        try:
            made = message(event.type, event.fields, app_id=self._app_id)
        except PoisonError as error:
            raise error if position is None else PoisonError(error.reason, f"event {position}: {error}") from error
        return {
            "entity": str(event.fields.get(entity, "")),
            "type": made.type,
            "body": made.body,
            "message_id": made.id,
            "time": made.time,
            "app_id": made.app_id,
        }


class OutboxEvent(NamedTuple):
    """A row: an event that was committed, and that may have been published."""

    id: int
    entity: str
    message: Message


_COLUMNS = ("id", "entity", "type", "body", "message_id", "time", "app_id")


def _event(row: tuple[Any, ...]) -> OutboxEvent:
    number, entity, kind, body, message_id, time, app_id = row
    return OutboxEvent(number, entity, Message(type=kind, body=body, id=message_id, time=_in_utc(time), app_id=app_id))


def _wake_relays(connection: Connection, table: Table) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(table.name, "")))  # sent at the commit, once


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)  # SQLite and MariaDB keep no time zone
