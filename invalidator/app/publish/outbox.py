"""Events in a table of the application's own database, committed or rolled back together with the change.

    the application's transaction: UPDATE product …; Outbox.append(connection, event); COMMIT
                                                                         │
    invalidator relay: take ─> publish, wait for the confirmation ─> forget, COMMIT

Rules of this file:

1. A row is deleted only after its event was confirmed. A relay that dies before that leaves the row to the next relay,
   which publishes the event again, under the same id.
2. Order is kept per entity. A relay takes an entity's oldest row, and under its lock the rows that follow. So any
   number of relays work side by side, and none publishes an event that comes after one that another relay holds.
3. Ids are given at the append, not at the commit. Of two transactions that change the same entity, the second waits for
   the first at the row that both change. So append after the change, and ids are in the order of the commits.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)

from invalidator.app.publish.message import Message, message
from invalidator.events.event import Event

#: The default name of the table.
TABLE = "invalidator_outbox"


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
            # SQLite assigns ids only in a column of type INTEGER.
            Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
            Column("entity", Text, nullable=False),
            Column("type", Text, nullable=False),
            Column("body", LargeBinary, nullable=False),
            Column("message_id", String(32), nullable=False),
            Column("time", DateTime(timezone=True), nullable=False),
            Column("app_id", Text, nullable=False),
            Index(f"{table}_entity", "entity", "id"),
        )

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
        entity = str(event.fields.get("id", "")) if entity is None else entity
        made = message(event.type, event.fields, app_id=self._app_id)
        row = {"type": made.type, "body": made.body, "message_id": made.id, "time": made.time, "app_id": made.app_id}
        connection.execute(insert(self.table).values(entity=entity, **row))
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_notify(self.table.name, "")))  # sent at the commit, once

    def take(self, connection: Connection, limit: int) -> "list[OutboxEvent]":
        """Lock the next events until the transaction ends, and return them in order; skip those that others hold."""
        table, earlier = self.table, self.table.alias()
        is_behind = select(earlier.c.id).where(earlier.c.entity == table.c.entity, earlier.c.id < table.c.id).exists()
        oldest = select(table.c.entity).where(~is_behind).order_by(table.c.id).limit(limit)
        entities = connection.scalars(oldest.with_for_update(skip_locked=True, of=table)).all()
        theirs = select(table).where(table.c.entity.in_(entities)).order_by(table.c.id).limit(limit)
        return [_event(row) for row in connection.execute(theirs.with_for_update(skip_locked=True)).mappings()]

    def backlog(self, connection: Connection) -> tuple[int, datetime | None]:
        """Return the number of waiting events, and the time at which the oldest was appended."""
        count, oldest = connection.execute(select(func.count(), func.min(self.table.c.time))).one()
        return count, _in_utc(oldest) if oldest else None

    def forget(self, connection: Connection, events: "Iterable[OutboxEvent]") -> None:
        """Delete events that were published."""
        connection.execute(delete(self.table).where(self.table.c.id.in_([event.id for event in events])))


class OutboxEvent(NamedTuple):
    """A row: an event that was committed, and that may have been published."""

    id: int
    entity: str
    message: Message


def _event(row: RowMapping) -> OutboxEvent:
    about = {name: row[name] for name in ("type", "body", "app_id")}
    return OutboxEvent(row["id"], row["entity"], Message(id=row["message_id"], time=_in_utc(row["time"]), **about))


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)  # SQLite keeps no time zone
