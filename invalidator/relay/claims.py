"""The shards of entities that a relay alone publishes, so that any number of relays keep the order of each entity.

    alone: every shard ─> another relay joins ─> the surplus is released ─> the other one takes it

A claim lasts as long as its database session, so a relay that dies leaves its shards to the others. On PostgreSQL a
claim is an advisory lock, on MariaDB a named lock. SQLite has no such locks: there one relay claims everything, through
a lock on a file.
"""

import fcntl
import hashlib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

from sqlalchemy import Connection, TextClause, func, select, text

from invalidator.app.publish.outbox import SHARDS
from invalidator.errors import ConfigurationError

ALL = frozenset(range(SHARDS))

#: The number of an advisory lock that every relay shares. Its holders are counted.
MEMBER = SHARDS
#: The numbers of named locks of which each relay holds one.
MEMBERS = range(SHARDS, 2 * SHARDS)

#: Times that a pooler is looked for: with other clients at work it may give the session to one of them.
POOLER_TRIES = 3

SESSION = text("SELECT pg_backend_pid()")
TABLE = text("SELECT CAST(CAST(to_regclass(:name) AS oid) AS int4)")
JOIN = text("SELECT 1 FROM (SELECT pg_advisory_lock_shared(:table, :member)) _")
COUNT = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    " AND CAST(classid AS int4) = :table AND objid = :member AND objsubid = 2"
)
CLAIM = text(
    "SELECT shard FROM unnest(CAST(:free AS int4[])) shard WHERE pg_try_advisory_lock(:table, shard) LIMIT :missing"
)
RELEASE = text("SELECT shard FROM unnest(CAST(:released AS int4[])) shard WHERE pg_advisory_unlock(:table, shard)")


class Claims(Protocol):
    """The shards that are claimed; all methods are called between transactions."""

    shards: frozenset[int]

    def balance(self) -> int:
        """Claim free shards, up to a fair share; return the number of shards claimed beyond it."""

    def release(self, surplus: int) -> None:
        """Release shards. None of their events may be in flight."""


class AdvisoryLocks:
    """Claims on PostgreSQL: an advisory lock for each shard of a table."""

    def __init__(self, connection: Connection, table: str) -> None:
        self._connection = connection
        _refuse_pooler(connection)
        #: The table's own number, since tables of one name in two schemas are two outboxes.
        (self._table,) = self._execute(TABLE, name=connection.dialect.identifier_preparer.quote(table))
        self.shards: frozenset[int] = frozenset()
        self._execute(JOIN, member=MEMBER)

    def balance(self) -> int:
        (relays,) = self._execute(COUNT, member=MEMBER)
        missing = _share(relays) - len(self.shards)
        if missing > 0:
            self.shards |= set(self._execute(CLAIM, free=sorted(ALL - self.shards), missing=missing))
        return max(0, -missing)

    def release(self, surplus: int) -> None:
        released = sorted(self.shards)[:surplus]
        self._execute(RELEASE, released=released)
        self.shards -= set(released)

    def _execute(self, statement: TextClause, **parameters: object) -> list[int]:
        if statement is not TABLE:
            parameters["table"] = self._table
        with self._connection.begin():
            return list(self._connection.scalars(statement, parameters))


class NamedLocks:
    """Claims on MariaDB and MySQL: a named lock for each shard of a table.

    Relays are counted by locks too: each holds the first of 64 more that was free.
    """

    def __init__(self, connection: Connection, table: str) -> None:
        self._connection = connection
        with connection.begin():
            self._prefix = lock_prefix(connection, table)
        self.shards: frozenset[int] = frozenset()
        for member in MEMBERS:
            if self._each("get_lock", [member], 0):
                break

    def balance(self) -> int:
        missing = _share(len(self._each("is_used_lock", MEMBERS))) - len(self.shards)
        if missing > 0:
            free = self._each("is_free_lock", ALL - self.shards)
            self.shards |= set(self._each("get_lock", free[:missing], 0))
        return max(0, -missing)

    def release(self, surplus: int) -> None:
        released = sorted(self.shards)[:surplus]
        self._each("release_lock", released)
        self.shards -= set(released)

    def _each(self, function: str, locks: Collection[int], *arguments: int) -> list[int]:
        """Call a function with the name of each lock; return the numbers of those for which it returned true."""
        numbers = sorted(locks)
        if not numbers:
            return []
        calls = [getattr(func, function)(f"{self._prefix} {number}", *arguments) for number in numbers]
        with self._connection.begin():
            answers = self._connection.execute(select(*calls)).one()
        return [number for number, is_true in zip(numbers, answers, strict=True) if is_true]


class FileLock:
    """Claims on SQLite: everything or nothing."""

    def __init__(self, database: str) -> None:
        self._path = Path(f"{database}.relay")
        self._file: IO[bytes] | None = None
        self.shards: frozenset[int] = frozenset()

    def balance(self) -> int:
        self._file = self._file or self._open()
        with suppress(BlockingIOError):  # another relay has it
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.shards = ALL
        return 0

    def release(self, surplus: int) -> None: ...

    def _open(self) -> IO[bytes]:
        try:
            return self._path.open("wb")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {self._path}: {error.strerror}; the relay keeps its lock beside the database"
            ) from error

    def close(self) -> None:
        """Release everything."""
        if self._file:
            self._file.close()


def _refuse_pooler(connection: Connection) -> None:
    """Raise ConfigurationError if another connection has the same database session, as with PgBouncer.

    A pooler in transaction mode gives the session that was used last to the next transaction of any client.
    """
    for _ in range(POOLER_TRIES):
        with connection.begin():
            mine = connection.scalar(SESSION)
        with connection.engine.connect() as another:
            if mine == another.scalar(SESSION):
                raise ConfigurationError(
                    "the database sessions are shared (PgBouncer in transaction mode?), so a relay cannot hold locks: "
                    'set "outbox.url" to the database itself, or to a pool with pool_mode = session'
                )


def lock_prefix(connection: Connection, table: str) -> str:
    """Return the beginning of the names of a table's locks. They are the whole server's, with 64 characters at most."""
    database = connection.scalar(select(func.database()))
    return f"invalidator {hashlib.md5(f'{database}.{table}'.encode(), usedforsecurity=False).hexdigest()}"


def _share(relays: int) -> int:
    """Return the number of shards that each relay may claim."""
    return -(-SHARDS // max(1, relays))
