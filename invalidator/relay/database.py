"""The outbox's database, as a relay uses it: one connection for claims and sweeps, others to delete on.

A sweep reads the table from its beginning, in one snapshot. So an event that was committed late, with a lower id, is
read before every event that was appended after that commit, and cannot be overtaken.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

from sqlalchemy import Connection, Engine, create_engine, exc, inspect, make_url, text

from invalidator.app.publish.outbox import Outbox, OutboxEvent
from invalidator.errors import ConfigurationError, UnreachableError
from invalidator.relay.claims import ALL, AdvisoryLocks, Claims, FileLock
from invalidator.settings import OutboxSettings

#: Seconds that the database has to answer a connection, unless the URL sets connect_timeout.
CONNECT_SECONDS = 10


def engine_of(outbox: OutboxSettings) -> Engine:
    """Return the engine of the outbox's database, not connected yet.

    Raises:
        ConfigurationError: `outbox.url` is missing or invalid.
    """
    if outbox.url is None:
        raise ConfigurationError('setting "outbox.url" is missing: the database of the application, as in conf/')
    try:
        url = make_url(outbox.url.reveal())
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        if url.get_backend_name() == "postgresql":  # by default it waits minutes for a host that does not answer
            url = url.set(query={"connect_timeout": str(CONNECT_SECONDS), **url.query})
        return create_engine(url)
    except (exc.ArgumentError, ImportError):  # their text may hold the password
        raise ConfigurationError(
            'setting "outbox.url" should read postgresql://user@host/database or sqlite:////path/to/file'
        ) from None


class OutboxSession:
    """A relay's connection to the outbox. Its methods block; they run in threads.

    Raises:
        UnreachableError: the database failed; nothing of this session can be used any more.
    """

    def __init__(self, engine: Engine, settings: OutboxSettings) -> None:
        self._engine = engine
        self._table = settings.table
        self._batch = settings.batch_events
        self._outbox = Outbox(settings.table)
        self._is_postgresql = engine.dialect.name == "postgresql"
        self._connection: Connection | None = None
        self._claims: Claims | None = None
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
            if self._is_postgresql:
                # Closing it ends the claims. The pool would keep it, and SQLAlchemy leaves open what it cannot reset.
                session = connection.connection.dbapi_connection
                assert session
                self._closing.callback(session.close)
                connection.detach()
                self._claims = AdvisoryLocks(connection, self._table)
            else:
                self._claims = FileLock(self._engine.url.database or "")
                self._closing.callback(self._claims.close)

    def balance(self) -> int:
        """Claim a fair share of the shards; return the number of shards to release."""
        assert self._claims
        with _translated():
            return self._claims.balance()

    def release(self, surplus: int) -> None:
        """Release shards for other relays. None of their events may be in flight."""
        assert self._claims
        with _translated():
            self._claims.release(surplus)

    def sweep(self, without: Collection[str] = ()) -> Iterator[list[OutboxEvent]]:
        """Yield the events of the claimed shards in batches, in the order of their ids, as of now."""
        assert self._connection and self._claims
        shards = None if self._claims.shards == ALL else self._claims.shards
        if shards is not None and not shards:
            return
        with _translated(), self._connection.begin():
            if self._is_postgresql:  # on SQLite writers wait for each other, so ids are committed in order
                self._connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
            after = 0
            while True:
                events = self._outbox.read(
                    self._connection, limit=self._batch, after=after, shards=shards, without=without
                )
                if events:
                    after = events[-1].id
                    yield events
                if len(events) < self._batch:
                    return

    def delete(self, events: Collection[OutboxEvent]) -> None:
        """Delete events that were published."""
        with _translated(), self._engine.begin() as connection:
            self._outbox.forget(connection, events)

    def close(self) -> None:
        """Give up the claims; never raises."""
        if self._connection:
            with suppress(exc.SQLAlchemyError):
                self._connection.close()
        self._closing.close()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        raise UnreachableError(f"the outbox's database: {str(error.orig).strip()}") from error
