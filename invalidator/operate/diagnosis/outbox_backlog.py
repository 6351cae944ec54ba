"""The backlog of the application's outbox: events that were committed and are not published yet."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import exc

from invalidator.app.publish.outbox import Outbox
from invalidator.errors import ConfigurationError, UnconfirmedError, UnreachableError
from invalidator.operate.findings import Finding, ok, wrong
from invalidator.relay.database import engine_of
from invalidator.settings import OutboxSettings

#: The time after which a waiting event means that no relay publishes.
LATE = timedelta(seconds=60)


def check_outbox(settings: OutboxSettings) -> Finding:
    """Check whether events wait in the outbox, and for how long; block until the database answers or times out.

    Raises:
        ConfigurationError: `outbox.url` is missing or invalid.
    """
    engine = engine_of(settings)
    try:
        with engine.connect() as connection:
            if not engine.dialect.has_table(connection, settings.table):
                return wrong(
                    "outbox",
                    f"there is no table {settings.table}",
                    "correct outbox.table, or: invalidator relay --create-table",
                    meaning=ConfigurationError,
                )
            waiting, oldest = Outbox(settings.table).backlog(connection)
    except exc.SQLAlchemyError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        fix = "start the database, or correct outbox.url"
        return wrong("outbox", f"{engine.url!r}: {reason}", fix, meaning=UnreachableError)
    finally:
        engine.dispose()
    text = f"events waiting in {settings.table}: {waiting}"
    if oldest is None or (age := datetime.now(UTC) - oldest) < LATE:
        return ok("outbox", text)
    text += f", the oldest for {age.total_seconds():.0f} s: no relay publishes them"
    return wrong("outbox", text, "systemctl start invalidator-relay, or read its log", meaning=UnconfirmedError)
