"""Exchanges, queues and bindings by command: a connection of its own around declaring and verifying."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from invalidator.broker.address import connection_name
from invalidator.broker.connection import Connection, close, connect
from invalidator.broker.topology import Topology, declare
from invalidator.operate.findings import Finding
from invalidator.operate.verify import verify
from invalidator.settings import Settings


@asynccontextmanager
async def connected(settings: Settings, doing: str) -> AsyncIterator[Connection]:
    """A connection for the time of one command; raises as `connect` does."""
    connection = await connect(settings.broker, name=connection_name(doing, settings.cluster))
    try:
        yield connection
    finally:
        await close(connection)


async def declared(settings: Settings) -> None:
    """Make what is missing; raises as `connect` and `declare` do."""
    async with connected(settings, "topology") as connection:
        await declare(connection, Topology.of(settings))


async def verified(settings: Settings) -> list[Finding]:
    """What `verify` finds; raises as `connect` does."""
    async with connected(settings, "topology") as connection:
        return await verify(settings, connection)
