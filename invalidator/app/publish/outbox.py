"""Events in a table of the application's own database, so that they are committed, or rolled back, with the rest.

    the application's transaction: UPDATE product …; Outbox.append(connection, event); COMMIT
                                                                         │
    invalidator relay: take ─> publish, wait for the confirmation ─> forget, COMMIT

Rules of this file:

1. A row is forgotten only after its event was confirmed. A relay that dies in between leaves it to the next one, which
   publishes it again, under the same id.
2. Order is kept per entity: only an entity's oldest row can be taken, and with it, under its lock, those that follow.
   So any number of relays work side by side, and none publishes what comes after an event that another one holds.
3. Ids are given at the append, not at the commit. Of two transactions that change the same entity the second waits for
   the first at the row that both change, so append after the change, and ids are in the order of the commits.
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
    """The table that events wait in, from the application's commit until `invalidator relay` has published them.

    ::

        outbox = Outbox(app_id="shop")
        with engine.begin() as connection:
            connection.execute(update(products).where(products.c.id == 17).values(price=109.99))
            outbox.append(connection, Event("product_updated", {"id": 17, "price": 109.99}))

    `table` is its name, which `outbox.table` of the relay's settings repeats. With an ORM session, append to
    `session.connection()`.
    """

    def __init__(self, table: str = TABLE, *, app_id: str = "") -> None:
        self._app_id = app_id
        #: For migrations: its metadata holds nothing else.
        self.table = Table(
            table,
            MetaData(),
            # SQLite counts by itself in a column of type INTEGER only.
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
        """Make the table, where there is none."""
        self.table.metadata.create_all(engine)

    def append(self, connection: Connection, event: Event, *, entity: str | None = None) -> None:
        """Have the event published once the connection's transaction is committed, and never if it is rolled back.

        Events of one `entity` are published in the order in which they were appended; it is the event's field ``id``
        unless told otherwise.

        Raises:
            PoisonError: no worker could read such an event.
        """
        entity = str(event.fields.get("id", "")) if entity is None else entity
        made = message(event.type, event.fields, app_id=self._app_id)
        row = {"type": made.type, "body": made.body, "message_id": made.id, "time": made.time, "app_id": made.app_id}
        connection.execute(insert(self.table).values(entity=entity, **row))
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_notify(self.table.name, "")))  # sent at the commit, once

    def take(self, connection: Connection, limit: int) -> "list[Waiting]":
        """Events whose turn it is, in their order, locked until the transaction ends; what others hold is left out."""
        table, earlier = self.table, self.table.alias()
        is_behind = select(earlier.c.id).where(earlier.c.entity == table.c.entity, earlier.c.id < table.c.id).exists()
        oldest = select(table.c.entity).where(~is_behind).order_by(table.c.id).limit(limit)
        entities = connection.scalars(oldest.with_for_update(skip_locked=True, of=table)).all()
        theirs = select(table).where(table.c.entity.in_(entities)).order_by(table.c.id).limit(limit)
        return [_waiting(row) for row in connection.execute(theirs.with_for_update(skip_locked=True)).mappings()]

    def backlog(self, connection: Connection) -> tuple[int, datetime | None]:
        """How many events wait, and when the first of them was appended."""
        count, oldest = connection.execute(select(func.count(), func.min(self.table.c.time))).one()
        return count, _in_utc(oldest) if oldest else None

    def forget(self, connection: Connection, events: "Iterable[Waiting]") -> None:
        """Delete what was published."""
        connection.execute(delete(self.table).where(self.table.c.id.in_([event.id for event in events])))


class Waiting(NamedTuple):
    """A row: an event that was committed, and whether it was published nobody knows."""

    id: int
    entity: str
    message: Message


def _waiting(row: RowMapping) -> Waiting:
    about = {name: row[name] for name in ("type", "body", "app_id")}
    return Waiting(row["id"], row["entity"], Message(id=row["message_id"], time=_in_utc(row["time"]), **about))


def _in_utc(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)  # SQLite keeps no time zone
