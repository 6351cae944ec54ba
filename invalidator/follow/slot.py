"""The slot and the publication of a follower: made, inspected, dropped.

The slot is the server's bookmark: the server keeps its log from there on, until the follower confirms a later position.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from invalidator.errors import ConfigurationError
from invalidator.follow import lsn
from invalidator.follow.values import OwnType
from invalidator.postgres.connection import ANSWER_SECONDS, fetch

#: Servers from this version on can keep a slot on their standbys, through a failover.
HAS_FAILOVER = 170000


class SlotState(NamedTuple):
    """A slot as the server describes it."""

    is_active: bool
    #: reserved, extended, unreserved, or lost: the server has deleted log that the follower had not confirmed.
    wal_status: str
    confirmed: int
    #: Bytes of log that the server keeps for the slot.
    retained: int
    #: Bytes of log that were written after the confirmed position.
    behind: int

    @property
    def is_lost(self) -> bool:
        return self.wal_status == "lost"

    @property
    def is_running_out(self) -> bool:
        """True if the next checkpoint may delete log that was not read."""
        return self.wal_status == "unreserved"


class Published(NamedTuple):
    """The contents of a publication."""

    tables: frozenset[str]
    #: True if a change of a partition is published as one of its table.
    is_via_root: bool


async def inspect(connection: "psycopg.AsyncConnection[Any]", slot: str) -> SlotState | None:
    """Return the state of a slot, None if there is no such slot; raises as `fetch`."""
    rows = await fetch(
        connection,
        "SELECT active, coalesce(wal_status, 'lost'), coalesce(confirmed_flush_lsn::text, '0/0'),"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        slot,
    )
    for is_active, wal_status, confirmed, retained, behind in rows:
        return SlotState(is_active, wal_status, lsn.from_text(confirmed), retained, behind)
    return None


async def has_publication(connection: "psycopg.AsyncConnection[Any]", publication: str) -> bool:
    """Return True if there is such a publication; raises as `fetch`."""
    return bool(await fetch(connection, "SELECT 1 FROM pg_publication WHERE pubname = %s", publication))


async def published(connection: "psycopg.AsyncConnection[Any]", publication: str) -> Published | None:
    """Return the tables of a publication, None if there is no such publication; raises as `fetch`."""
    rows = await fetch(
        connection,
        "SELECT p.pubviaroot, array(SELECT schemaname || '.' || tablename FROM pg_publication_tables t"
        "  WHERE t.pubname = p.pubname) FROM pg_publication p WHERE p.pubname = %s",
        publication,
    )
    return next((Published(frozenset(tables), is_via_root) for is_via_root, tables in rows), None)


async def publish_tables(connection: "psycopg.AsyncConnection[Any]", publication: str, tables: Sequence[str]) -> None:
    """Make the publication hold exactly these tables, "schema.table"; raises as `fetch`.

    Changes of a partition are those of its table, whose name is in the rules.
    """
    await fetch_wal_level(connection)
    name = sql.Identifier(publication)
    if not await has_publication(connection, publication):
        await _run(connection, sql.SQL("CREATE PUBLICATION {}").format(name))
    await _run(connection, sql.SQL("ALTER PUBLICATION {} SET (publish_via_partition_root = true)").format(name))
    if tables:
        listed = sql.SQL(", ").join(sql.Identifier(*table.split(".", 1)) for table in tables)
        await _run(connection, sql.SQL("ALTER PUBLICATION {} SET TABLE {}").format(name, listed))


async def create_slot(connection: "psycopg.AsyncConnection[Any]", slot: str) -> None:
    """Make the slot if it is missing, from now on; a user who may replicate may do this. Raises as `fetch`."""
    if await inspect(connection, slot) is None:
        more = ", false, false, true" if connection.info.server_version >= HAS_FAILOVER else ""
        command = sql.SQL("SELECT pg_create_logical_replication_slot({}, 'pgoutput'" + more + ")")
        # Without a deadline: the server waits until the transactions that are open now have ended.
        await _run(connection, command.format(sql.Literal(slot)), within=None)


async def fetch_wal_level(connection: "psycopg.AsyncConnection[Any]") -> None:
    """Raise ConfigurationError unless the server writes what logical decoding needs."""
    ((level,),) = await fetch(connection, "SHOW wal_level")
    if level != "logical":
        raise ConfigurationError(
            f"the server's wal_level is {level}: ALTER SYSTEM SET wal_level = logical, then restart PostgreSQL"
        )


async def drop_publication(connection: "psycopg.AsyncConnection[Any]", publication: str) -> None:
    """Drop the publication, if it exists; raises as `fetch`."""
    await _run(connection, sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(publication)))


async def drop_slot(connection: "psycopg.AsyncConnection[Any]", slot: str) -> None:
    """Drop the slot, if it exists; raises as `fetch`."""
    await fetch(
        connection,
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
        slot,
    )


async def own_types(connection: "psycopg.AsyncConnection[Any]", oids: Sequence[int]) -> list[OwnType]:
    """Return the database's own types of these OIDs, and the types that they are made of; raises as `fetch`."""
    rows = await fetch(
        connection,
        "WITH RECURSIVE own AS ("
        " SELECT oid, CASE WHEN typcategory = 'A' THEN typelem ELSE 0 END AS element, typbasetype AS base"
        "  FROM pg_type WHERE oid = ANY(%s::oid[])"
        " UNION SELECT t.oid, CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE 0 END, t.typbasetype"
        "  FROM pg_type t JOIN own ON t.oid IN (own.element, own.base) WHERE t.oid >= 16384"
        ") SELECT oid::bigint, element::bigint, base::bigint FROM own",
        list(oids),
    )
    return [OwnType(*row) for row in rows]


async def _run(
    connection: "psycopg.AsyncConnection[Any]", command: sql.Composable, *, within: float | None = ANSWER_SECONDS
) -> None:
    await fetch(connection, command.as_string(connection), within=within)
