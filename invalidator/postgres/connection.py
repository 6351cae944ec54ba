"""A connection to PostgreSQL, and queries that end: every error is one of ours, with the fix in its text."""

import asyncio
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import make_conninfo

from invalidator.errors import ConfigurationError, RefusedError, UnreachableError

#: Seconds that the server has to answer a connection.
CONNECT_SECONDS = 10
#: Seconds for one query.
ANSWER_SECONDS = 30.0


async def connect(url: str, *, within: int = CONNECT_SECONDS, **options: str) -> "psycopg.AsyncConnection[Any]":
    """Connect to PostgreSQL; every statement is a transaction of its own.

    Raises:
        RefusedError: the server answers and says no.
        UnreachableError: it does not answer.
    """
    try:
        conninfo = make_conninfo(url, **{"connect_timeout": str(within), **options})
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        meaning = RefusedError if _is_refusal(one_line(error)) else UnreachableError
        raise meaning(f"the database: {one_line(error)}") from error
    except psycopg.Error as error:
        raise ConfigurationError("the database's URL should read postgresql://user@host/database") from error


#: Parts of the server's text when it refuses a connection; libpq's error carries no SQLSTATE then.
_REFUSALS = (
    "authentication failed",
    "no pg_hba.conf entry",
    "permission denied",
    "does not exist",
    "not permitted",
    "replication role",
)


def _is_refusal(text: str) -> bool:
    return "FATAL:" in text and any(refusal in text for refusal in _REFUSALS)


async def fetch(
    connection: "psycopg.AsyncConnection[Any]",
    query: LiteralString,
    *values: object,
    within: float | None = ANSWER_SECONDS,
) -> list[Any]:
    """Return the rows of a query that takes at most `within` seconds, or as long as it takes.

    Raises:
        RefusedError: this user may not.
        ConfigurationError: the server refuses the statement.
        UnreachableError: the server does not answer.
    """
    try:
        async with asyncio.timeout(within):
            cursor = await connection.execute(query, values or None)
            return await cursor.fetchall() if cursor.description else []
    except TimeoutError as error:
        raise UnreachableError(f"the database does not answer a query within {within:g} s") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(f"the database: {one_line(error)}") from error
    except psycopg.OperationalError as error:
        raise UnreachableError(f"the database: {one_line(error)}") from error
    except psycopg.Error as error:
        raise ConfigurationError(f"the database: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split())
