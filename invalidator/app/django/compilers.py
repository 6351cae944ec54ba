"""The compilers of Django's ORM, extended: each write to a tracked table also appends events.

Everything that the ORM writes goes through one of three compilers: save, delete, update, bulk_create, bulk_update,
cascades, SET_NULL, many-to-many. `BaseDatabaseOperations.compiler` hands them out, and is the one thing replaced here.

Rules of this file:

1. A write and its events are in one transaction. Outside `atomic` the write gets one.
2. The rows come by RETURNING. The compiler's own result stays as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from django.db import transaction
from django.db.backends.base.operations import BaseDatabaseOperations
from django.db.models.sql.compiler import SQLDeleteCompiler, SQLInsertCompiler, SQLUpdateCompiler

from invalidator.app.django.tracking import append, tracked
from invalidator.errors import ConfigurationError

#: Databases with RETURNING in INSERT, UPDATE and DELETE.
HAVE_RETURNING = ("postgresql", "sqlite")


def install() -> None:
    """Make Django hand out the extended compilers; calling it again does nothing."""
    original = BaseDatabaseOperations.compiler
    if getattr(original, "appends_events", False):
        return

    def compiler(self: Any, name: str) -> type[Any]:
        return _extended(original(self, name))

    compiler.appends_events = True  # type: ignore[attr-defined]
    BaseDatabaseOperations.compiler = compiler


@cache
def _extended(compiler: type[Any]) -> type[Any]:
    for kind, extension in (
        (SQLInsertCompiler, _Inserts),
        (SQLUpdateCompiler, _Changes),
        (SQLDeleteCompiler, _Changes),
    ):
        if issubclass(compiler, kind):
            return type(compiler.__name__, (extension, compiler), {})
    return compiler


class _Extension:
    """The common part of the extended compilers, before Django's own among their bases."""

    query: Any
    using: str
    connection: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = self.query.get_meta().db_table
        self._trackings = tracked(self._table)
        if self._trackings and self.connection.vendor not in HAVE_RETURNING:
            raise ConfigurationError(
                f"{self._table} is tracked, but {self.connection.display_name} has no RETURNING in every statement: "
                "use PostgreSQL or SQLite, or publish after the commit"
            )
        #: The fields of all trackings.
        self._more = list(dict.fromkeys(field for tracking in self._trackings for field in tracking.fields))
        #: The statements to which RETURNING was added, and the rows that they returned.
        self._statements: set[str] = set()
        self._rows: list[Sequence[Any]] = []

    def _with_returning(self, sql: str) -> str:
        sql += f" RETURNING {', '.join(self.connection.ops.quote_name(field.column) for field in self._more)}"
        self._statements.add(sql)
        return sql

    @contextmanager
    def _appending(self) -> Iterator[None]:
        """Collect the rows of this compiler's statements, and append their events."""
        with transaction.atomic(using=self.using, savepoint=False):
            with self.connection.execute_wrapper(self._collect):
                yield
            converters = self.get_converters([field.get_col(self._table) for field in self._more])  # type: ignore[attr-defined]
            self._append(self.apply_converters(self._rows, converters))  # type: ignore[attr-defined]

    def _collect(self, execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        result = execute(sql, params, many, context)
        if sql in self._statements:
            self._rows += context["cursor"].fetchall()
        return result

    def _execute_returning(self, execute: Any, asked: Sequence[Any]) -> list[Any]:
        """Execute a statement that returns fields to its caller; take those of the trackings with them."""
        width = len(asked)
        with transaction.atomic(using=self.using, savepoint=False):
            rows = execute([*asked, *self._more])
            self._append([row[width:] for row in rows])
        return [row[:width] for row in rows]

    def _append(self, rows: Iterable[Sequence[Any]]) -> None:
        found = [dict(zip(self._more, row, strict=True)) for row in rows]
        for tracking in self._trackings:
            append(self.using, tracking, [[row[field] for field in tracking.fields] for row in found])


class _Inserts(_Extension):
    """An extended `SQLInsertCompiler`."""

    def execute_sql(self, returning_fields: Sequence[Any] | None = None) -> list[Any]:
        execute = super().execute_sql  # type: ignore[misc]
        if not self._trackings:
            return execute(returning_fields)  # type: ignore[no-any-return]
        if not returning_fields:
            with self._appending():
                execute(None)
            return []
        return self._execute_returning(execute, returning_fields)

    def as_sql(self, *args: Any, **kwargs: Any) -> list[tuple[str, Any]]:
        statements = super().as_sql(*args, **kwargs)  # type: ignore[misc]
        if not self._trackings or self.returning_fields:  # type: ignore[attr-defined]
            return statements  # type: ignore[no-any-return]
        return [(self._with_returning(sql), params) for sql, params in statements]


class _Changes(_Extension):
    """An extended `SQLUpdateCompiler` or `SQLDeleteCompiler`."""

    def execute_sql(self, *args: Any, **kwargs: Any) -> Any:
        execute = super().execute_sql  # type: ignore[misc]
        if not self._trackings:
            return execute(*args, **kwargs)
        with self._appending():
            return execute(*args, **kwargs)

    def execute_returning_sql(self, returning_fields: Sequence[Any]) -> list[Any]:
        """Django 6's, which updates an object that was saved with an expression."""
        execute = super().execute_returning_sql  # type: ignore[misc]
        if not self._trackings or not returning_fields:
            return execute(returning_fields)  # type: ignore[no-any-return]
        return self._execute_returning(execute, returning_fields)

    def as_sql(self, *args: Any, **kwargs: Any) -> tuple[str, Any]:
        sql, params = super().as_sql(*args, **kwargs)  # type: ignore[misc]
        if not sql or not self._trackings or getattr(self, "returning_fields", None):
            return sql, params
        return self._with_returning(sql), params
