"""The tables that rules name, as the database describes them: what its log says about an old row."""

from typing import Any, NamedTuple

import psycopg

from invalidator.postgres.connection import fetch


class Column(NamedTuple):
    """A column of a followed table."""

    #: True if the log has its old value: it belongs to the replica identity.
    is_identity: bool
    #: True if a large value is stored apart (TOAST): the log leaves it out while it does not change.
    may_be_left_out: bool


class Table(NamedTuple):
    """A table, or a partitioned one with all of its partitions."""

    is_partitioned: bool
    columns: dict[str, Column]

    @property
    def has_identity(self) -> bool:
        """True if its rows may be updated and deleted while it is published."""
        return any(column.is_identity for column in self.columns.values())


async def tables_of(connection: "psycopg.AsyncConnection[Any]", names: list[str]) -> dict[str, Table]:
    """Return those of these tables, "schema.table", that exist; raises as `fetch`."""
    rows = await fetch(
        connection,
        "WITH parts AS ("
        " SELECT s.nspname || '.' || c.relname AS name, c.relkind = 'p' AS is_partitioned,"
        "   coalesce(t.relid, c.oid) AS oid"
        "  FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace"
        "  LEFT JOIN LATERAL pg_partition_tree(c.oid) t ON t.isleaf"
        "  WHERE c.relkind IN ('r', 'p') AND s.nspname || '.' || c.relname = ANY(%s)"
        ") SELECT p.name, bool_or(p.is_partitioned), a.attname::text,"
        "   bool_and(c.relreplident = 'f' OR coalesce(a.attnum = ANY(i.indkey), false)),"
        "   bool_or(a.attlen = -1 AND a.attstorage <> 'p')"
        "  FROM parts p JOIN pg_class c ON c.oid = p.oid"
        "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        "  LEFT JOIN pg_index i ON i.indrelid = c.oid"
        "   AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END"
        "  GROUP BY p.name, a.attname ORDER BY p.name, min(a.attnum)",
        names,
    )
    found: dict[str, Table] = {}
    for name, is_partitioned, column, is_identity, may_be_left_out in rows:
        table = found.setdefault(name, Table(is_partitioned, {}))
        table.columns[column] = Column(is_identity, may_be_left_out)
    return found
