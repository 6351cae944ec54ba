"""`track`: an event in the outbox for each row that SQLAlchemy's sessions write.

    flush ─> mapper events, one a row ─────────────────────────┐
    update(), delete(), insert() ─> rows by RETURNING ─────────┴─> Outbox.append_many, in the same transaction

Rules of this file:

1. Events are appended after the change and on its connection. So they are committed with it, or rolled back with it,
   also to a savepoint.
2. The caller gets the result that the statement has without the hook: its rows, or its `rowcount`.
3. An event has the values after the change. For a deleted row it has those before.
4. Only sessions are seen. Statements on a connection, `text`, `bulk_save_objects` and its kind, triggers, and cascades
   of the database itself are not: `invalidator follow` sees them all.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from invalidator.app.publish.log_outbox import LogOutbox
from invalidator.app.publish.outbox import CHUNK, Outbox
from invalidator.errors import ConfigurationError
from invalidator.events.event import Event

#: Every session on an engine; all sessions of a class or of a `sessionmaker`; or one session.
Sessions: TypeAlias = (
    sa.Engine
    | AsyncEngine
    | type[orm.Session]
    | orm.sessionmaker[Any]
    | orm.Session
    | type[AsyncSession]
    | AsyncSession
)
Values: TypeAlias = tuple[Any, ...]


def track(
    sessions: Sessions, model: type[Any], event_type: str, *fields: str, outbox: Outbox | LogOutbox | None = None
) -> None:
    """Append an event to the outbox for each row of `model` that these sessions insert, update or delete.

    ::

        outbox = Outbox(app_id="shop")
        track(engine, Product, "product_updated", "price", outbox=outbox)
        with Session(engine) as session, session.begin():
            session.execute(update(Product).where(Product.id == 17).values(price=109.99))

    An event has the attributes `fields`, and always those of the primary key, of which the first is the entity (see
    `Outbox.append`). Call it once for each type of event, when the process starts.

    Raises:
        ConfigurationError: the model has no such attribute in its table.
    """
    listening, engine = _listening(sessions)
    hook = _Hook(orm.class_mapper(model), event_type, fields, outbox or Outbox(), engine)
    for name in ("before_flush", "after_flush_postexec", "do_orm_execute"):
        event.listen(listening, name, getattr(hook, name))
    for name in ("after_insert", "before_update", "before_delete"):
        event.listen(model, name, getattr(hook, name), propagate=True)


def _listening(sessions: Sessions) -> tuple[Any, sa.Engine | None]:
    """Return what to listen to, and the engine if only its sessions count."""
    if isinstance(sessions, AsyncEngine):
        return orm.Session, sessions.sync_engine
    if isinstance(sessions, sa.Engine):
        return orm.Session, sessions
    if isinstance(sessions, AsyncSession):
        return sessions.sync_session, None
    if isinstance(sessions, type) and issubclass(sessions, AsyncSession):
        return sessions.sync_session_class, None
    return sessions, None


class _Hook:
    """The listeners of one call of `track`."""

    def __init__(
        self,
        mapper: orm.Mapper[Any],
        type: str,
        fields: Sequence[str],
        outbox: Outbox | LogOutbox,
        engine: sa.Engine | None,
    ) -> None:
        self._mapper, self._type, self._outbox, self._engine = mapper, type, outbox, engine
        self._table = mapper.local_table
        self._key = list(self._table.primary_key)
        key = [mapper.get_property_by_column(column).key for column in self._key]
        #: The attributes, those of the primary key first.
        self._fields = list(dict.fromkeys([*key, *fields]))
        self._columns = [self._column(field) for field in self._fields]

    # --- Flushes -----------------------------------------------------------------------------------------------------

    def before_flush(self, session: orm.Session, *_: Any) -> None:
        if self._is_ours(session):
            session.info[self] = []

    def after_insert(self, _: Any, __: Any, row: Any) -> None:
        self._written(row, row)

    def before_update(self, _: Any, __: Any, row: Any) -> None:
        session = orm.object_session(row)
        if session and session.is_modified(row, include_collections=False):  # it is called for others too
            self._written(row, row)

    def before_delete(self, _: Any, __: Any, row: Any) -> None:
        self._written(row, self._values(row))

    def after_flush_postexec(self, session: orm.Session, _: Any) -> None:
        written = session.info.pop(self, [])
        self._append(session, [row if isinstance(row, tuple) else self._values(row) for row in written])

    def _written(self, row: Any, kept: Any) -> None:
        session = orm.object_session(row)
        if session and self in session.info:
            session.info[self].append(kept)

    def _values(self, row: Any) -> Values:
        return tuple(getattr(row, field) for field in self._fields)

    # --- Statements --------------------------------------------------------------------------------------------------

    def do_orm_execute(self, state: orm.ORMExecuteState) -> "sa.Result[Any] | None":
        statement = state.statement
        if not (isinstance(statement, sa.Insert | sa.Update | sa.Delete) and self._table == statement.table):
            return None
        if not self._is_ours(state.session):
            return None
        if state.is_executemany and not state.is_insert:
            return self._execute_many(state, statement)
        if not self._has_returning(state):
            return self._execute_locked(state, statement)
        frozen = state.invoke_statement(statement.returning(*self._columns)).freeze()
        rows, width = frozen().all(), len(frozen().keys()) - len(self._columns)
        self._append(state.session, [tuple(row[width:]) for row in rows])
        if width:
            return frozen().columns(*range(width))
        return _Written(len(rows), key=tuple(rows[0][: len(self._key)]) if len(rows) == 1 else None)

    def _execute_many(self, state: orm.ORMExecuteState, statement: Any) -> "sa.Result[Any]":
        """Execute an UPDATE or a DELETE with a list of parameters, for which no database has RETURNING."""
        sets: Any = state.parameters
        if state.is_orm_statement and statement.whereclause is None:  # the ORM's update by primary key
            result = state.invoke_statement()
            key = self._fields[: len(self._key)]
            self._append(state.session, self._read(state.session, [tuple(one[name] for name in key) for one in sets]))
            return result
        results = [state.session.execute(statement, one, bind_arguments=state.bind_arguments) for one in sets]
        return _Written(sum(result.rowcount for result in results))  # type: ignore[attr-defined]

    def _execute_locked(self, state: orm.ORMExecuteState, statement: Any) -> "sa.Result[Any]":
        """Execute an UPDATE or a DELETE on a database without RETURNING: lock and read the rows first."""
        if state.is_insert:
            raise ConfigurationError("this database has no INSERT … RETURNING: add objects to the session instead")
        chosen = sa.select(*self._columns).with_for_update()
        if statement.whereclause is not None:
            chosen = chosen.where(statement.whereclause)
        rows = [tuple(row) for row in state.session.execute(chosen, state.parameters)]
        result = state.invoke_statement()
        width = len(self._key)
        self._append(
            state.session, rows if state.is_delete else self._read(state.session, [row[:width] for row in rows])
        )
        return result

    def _read(self, session: orm.Session, keys: Sequence[Values]) -> Iterator[Values]:
        """Yield the rows with these primary keys."""
        rest = iter(keys)
        while chunk := list(islice(rest, CHUNK)):
            chosen = sa.select(*self._columns).where(sa.tuple_(*self._key).in_(chunk))
            yield from (tuple(row) for row in session.execute(chosen))

    # --- Both --------------------------------------------------------------------------------------------------------

    def _append(self, session: orm.Session, rows: Iterable[Values]) -> None:
        events = [Event(self._type, dict(zip(self._fields, row, strict=True))) for row in rows]
        if events:
            connection = session.connection(bind_arguments={"mapper": self._mapper})
            self._outbox.append_many(connection, events, entity=self._fields[0])

    def _is_ours(self, session: orm.Session) -> bool:
        if self._engine is None:
            return True
        try:
            return session.get_bind(self._mapper).engine is self._engine
        except sa.exc.UnboundExecutionError:
            return False

    def _has_returning(self, state: orm.ORMExecuteState) -> bool:
        dialect = state.session.get_bind(self._mapper).dialect
        if state.is_insert:
            return dialect.insert_returning
        return dialect.update_returning if state.is_update else dialect.delete_returning

    def _column(self, field: str) -> "sa.ColumnElement[Any]":
        found = self._mapper.column_attrs.get(field)
        if found is None or found.columns[0].table is not self._table:
            name = self._mapper.class_.__name__
            raise ConfigurationError(f'{name} has no column "{field}" in {self._table}: name attributes of its table')
        return found.columns[0]


class _Written(IteratorResult[Any]):
    """The result of a statement whose caller asked for no rows: their number, and the key of a single new row."""

    def __init__(self, rowcount: int, *, key: Values | None = None) -> None:
        super().__init__(SimpleResultMetaData([]), iter(()))
        self.rowcount = rowcount
        self.inserted_primary_key = key
