"""Setting up a follower in its database, and taking it away again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from invalidator.errors import ConfigurationError
from invalidator.events.followed import table_of
from invalidator.follow import slot
from invalidator.follow.lost_log import begin_again
from invalidator.follow.progress import START
from invalidator.follow.tables import tables_of
from invalidator.postgres.connection import connect
from invalidator.settings import Settings


async def create(settings: Settings) -> None:
    """Make publication and slot where they are missing; a slot that is missing beside its publication is a gap.

    Raises:
        InvalidatorError: broker, database or user do not do their part.
    """
    follow = settings.follow
    async with database(settings) as connection:
        await _assert_identities(connection, tables(settings))
        was_there = await slot.has_publication(connection, follow.publication)
        await slot.publish_tables(connection, follow.publication, tables(settings))
        if was_there and await slot.inspect(connection, follow.slot) is None:
            why = "the replication slot was missing"
            await begin_again(connection, settings.broker, follow.slot, since=START, why=why)
        else:
            await slot.create_slot(connection, follow.slot)


async def drop(settings: Settings) -> None:
    """Drop slot and publication, where they exist; raises as `create`."""
    async with database(settings) as connection:
        await slot.drop_slot(connection, settings.follow.slot)
        await slot.drop_publication(connection, settings.follow.publication)


def tables(settings: Settings) -> list[str]:
    """Return the tables, "schema.table", that the rules name."""
    return sorted({table for rule in settings.rule if (table := table_of(rule.on))})


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator["psycopg.AsyncConnection[Any]"]:
    """Connect to the primary for as long as the context lasts; raises as `connect`.

    Raises:
        ConfigurationError: there is no `follow.url`.
    """
    if settings.follow.url is None:
        raise ConfigurationError('setting "follow.url" is missing: the primary whose log is followed, as in conf/')
    connection = await connect(settings.follow.url.reveal())
    try:
        yield connection
    finally:
        await connection.close()


async def _assert_identities(connection: "psycopg.AsyncConnection[Any]", names: list[str]) -> None:
    """Refuse tables whose updates the server would refuse from then on: nobody expects that of a reader."""
    for name, table in (await tables_of(connection, names)).items():
        if not table.has_identity:
            raise ConfigurationError(no_identity(name))


def no_identity(table: str) -> str:
    """Return the error about a table whose rows cannot be told apart in the log."""
    return (
        f"{table} has no primary key: PostgreSQL would refuse to UPDATE and DELETE its rows once it is published. "
        f"Give it one, or: ALTER TABLE {table} REPLICA IDENTITY FULL"
    )
