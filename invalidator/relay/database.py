"""The outbox's database, as a relay uses it: one connection for claims and sweeps, others to delete on.

A sweep reads the table from its beginning (see `lower_bound`), in one snapshot. So an event that was committed late,
with a lower id, is read before every event that was appended after that commit, and cannot be overtaken.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from sqlalchemy import URL, Connection, Engine, create_engine, exc, inspect, make_url

from invalidator.app.publish.outbox import Outbox, OutboxEvent
from invalidator.errors import ConfigurationError, UnreachableError
from invalidator.relay.claims import ALL, AdvisoryLocks, Claims, FileLock, NamedLocks
from invalidator.relay.lower_bound import LowerBound, writers
from invalidator.settings import OutboxSettings

#: Seconds that the database has to answer a connection, unless the URL sets connect_timeout.
CONNECT_SECONDS = 10
#: Seconds that MariaDB has to answer anything, unless the URL sets read_timeout.
READ_SECONDS = 30

#: The driver of each database, and its options: by default they wait minutes for a host that does not answer.
DRIVERS: dict[str, tuple[str, dict[str, str]]] = {
    "sqlite": ("pysqlite", {}),
    "postgresql": ("psycopg", {"connect_timeout": str(CONNECT_SECONDS)}),
    "mariadb": ("pymysql", {"connect_timeout": str(CONNECT_SECONDS), "read_timeout": str(READ_SECONDS)}),
    "mysql": ("pymysql", {"connect_timeout": str(CONNECT_SECONDS), "read_timeout": str(READ_SECONDS)}),
}
#: Seconds after which a server ends the session of a relay whose machine was lost, and its claims with it.
LOST_SECONDS = 30
#: PostgreSQL asks the machine itself. MariaDB ends a session that sends no statement, and a relay sends one every poll.
_END_LOST_SESSIONS = {
    "postgresql": "SELECT set_config('tcp_keepalives_idle', '10', false), set_config('tcp_keepalives_interval', '5',"
    " false), set_config('tcp_keepalives_count', '4', false)",
    "mariadb": "SET SESSION wait_timeout = {seconds}",
    "mysql": "SET SESSION wait_timeout = {seconds}",
}
#: SQLite has none.
LOCKS: dict[str, Callable[[Connection, str], Claims]] = {
    "postgresql": AdvisoryLocks,
    "mariadb": NamedLocks,
    "mysql": NamedLocks,
}


def engine_of(outbox: OutboxSettings) -> Engine:
    """Return the engine of the outbox's database, not connected yet.

    Raises:
        ConfigurationError: `outbox.url` is missing or invalid.
    """
    if outbox.url is None:
        raise ConfigurationError('setting "outbox.url" is missing: the database of the application, as in conf/')
    try:
        return create_engine(_with_driver(make_url(outbox.url.reveal())))
    except ImportError as error:
        raise ConfigurationError(f"{error}: pip install 'invalidator[outbox]', or 'invalidator[mariadb]'") from None
    except (exc.ArgumentError, KeyError):  # their text may hold the password
        raise ConfigurationError(
            'setting "outbox.url" should read postgresql://user@host/database, mariadb://user@host/database or '
            "sqlite:////path/to/file"
        ) from None


def _with_driver(url: URL) -> URL:
    driver, options = DRIVERS[url.get_backend_name()]
    if "+" not in url.drivername:
        url = url.set(drivername=f"{url.drivername}+{driver}")
    return url.set(query={**options, **url.query})


class OutboxSession:
    """A relay's connection to the outbox. Its methods block; they run in threads.

    Raises:
        UnreachableError: the database failed; nothing of this session can be used any more.
    """

    def __init__(
        self, engine: Engine, settings: OutboxSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._table = settings.table
        self._batch = settings.batch_events
        self._poll_interval = settings.poll_interval
        self._outbox = Outbox(settings.table)
        self._connection: Connection | None = None
        self._claims: Claims | None = None
        self._bound: LowerBound | None = None
        self._leaves_out = False
        self._closing = ExitStack()

    def open(self) -> None:
        """Connect, and claim shards.

        Raises:
            ConfigurationError: the table does not exist.
        """
        with _translated():
            if not inspect(self._engine).has_table(self._table):
                raise ConfigurationError(f'the database has no table "{self._table}": invalidator relay --create-table')
            self._connection = connection = self._engine.connect()
            if lock := LOCKS.get(self._engine.dialect.name):
                connection.execution_options(isolation_level="REPEATABLE READ")  # each sweep is one snapshot
                seconds = max(LOST_SECONDS, round(3 * self._poll_interval))
                with connection.begin():
                    connection.exec_driver_sql(_END_LOST_SESSIONS[self._engine.dialect.name].format(seconds=seconds))
                self._claims = lock(connection, self._table)
            else:  # SQLite. Its writers wait for each other, so ids are committed in order.
                files = FileLock(self._engine.url.database or "")
                self._closing.callback(files.close)
                self._claims = files
            self._bound = LowerBound(partial(writers, connection, self._table), clock=self._clock)

    def balance(self) -> int:
        """Claim a fair share of the shards; return the number of shards to release."""
        assert self._claims and self._bound
        before = self._claims.shards
        with _translated():
            surplus = self._claims.balance()
        if self._claims.shards != before:
            self._bound.reset()
        return surplus

    def release(self, surplus: int) -> None:
        """Release shards for other relays. None of their events may be in flight."""
        assert self._claims
        with _translated():
            self._claims.release(surplus)

    def sweep(self, without: Collection[str] = ()) -> Iterator[list[OutboxEvent]]:
        """Yield the events of the claimed shards in batches, in the order of their ids, as of now."""
        assert self._connection and self._claims and self._bound
        shards = None if self._claims.shards == ALL else self._claims.shards
        if shards is not None and not shards:
            return
        self._leaves_out = bool(without)
        with _translated():
            self._bound.ask()
        with _translated(), self._connection.begin():
            after = self._bound.id
            while True:
                events = self._outbox.read(
                    self._connection, limit=self._batch, after=after, shards=shards, without=without
                )
                if events:
                    after = events[-1].id
                    yield events
                if len(events) < self._batch:
                    return

    def swept(self, through: int, *, is_whole: bool) -> None:
        """Note that the last sweep was published up to an id, and with ``is_whole`` to its end."""
        assert self._bound
        if not self._leaves_out:
            self._bound.passed(through, is_whole=is_whole)

    def delete(self, events: Collection[OutboxEvent]) -> None:
        """Delete events that were published."""
        with _translated(), self._engine.begin() as connection:
            self._outbox.forget(connection, events)

    def close(self) -> None:
        """Give up the claims; never raises."""
        self._closing.close()
        if self._connection:
            self._connection.invalidate()  # the claims end with its session, so it must not go back to the pool open


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        raise UnreachableError(f"the outbox's database: {str(error.orig).strip()}") from error
