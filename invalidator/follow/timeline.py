"""Timelines: a promoted standby, or a restored backup, continues the log under a new number from one position on.

What was read of the old timeline after that position never happened in the new one.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg

from invalidator.follow import lsn
from invalidator.postgres.connection import connect, fetch


class End(NamedTuple):
    """The end of a server's log on disk."""

    timeline: int
    lsn: int


async def end_of_log(connection: "psycopg.AsyncConnection[Any]") -> End:
    """Return where the log of a primary ends; raises as `fetch`."""
    ((file, flushed),) = await fetch(
        connection, "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_current_wal_flush_lsn()::text"
    )
    return End(int(file[:8], 16), lsn.from_text(flushed))


async def forgotten_from(url: str, read: End, now: End) -> int | None:
    """Return the position from which on a server does not have the log that was `read`, None if it has all of it.

    Raises:
        InvalidatorError: the server does not tell its history.
    """
    common = now.lsn
    if read.timeline != now.timeline:
        common = branches(await _history(url, now.timeline)).get(read.timeline, 0)
    return common if common < read.lsn else None


def branches(history: str) -> dict[int, int]:
    """Return the positions at which a timeline has left its ancestors, by their numbers, from its history file. Pure.

    >>> branches("1\\t0/3000100\\tno recovery target specified\\n")
    {1: 50331904}
    """
    return dict(_branches(history))


def _branches(history: str) -> Iterator[tuple[int, int]]:
    for line in history.splitlines():
        if line.strip() and not line.startswith("#"):
            timeline, position, *_ = line.split()
            yield int(timeline), lsn.from_text(position)


async def _history(url: str, timeline: int) -> str:
    connection = await connect(url, replication="database")
    try:
        ((_, content),) = await fetch(connection, f"TIMELINE_HISTORY {timeline}")
    finally:
        await connection.close()
    return content.decode() if isinstance(content, bytes) else str(content)
