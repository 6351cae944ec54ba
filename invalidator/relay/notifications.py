"""PostgreSQL's notifications, which wake the relay at each commit of an application."""

import asyncio
from contextlib import suppress

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import URL

from invalidator.broker.connection import pause


async def listen(database: URL, channel: str, wake: asyncio.Event) -> None:
    """Set ``wake`` at each notification, for ever; connect again after errors, which the relay's sessions report."""
    url = database.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        with suppress(psycopg.Error, OSError):
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                await connection.execute(SQL("LISTEN {}").format(Identifier(channel)))
                wake.set()  # for events that were committed before
                async for _ in connection.notifies():
                    wake.set()
        await asyncio.sleep(pause())
