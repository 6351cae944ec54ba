"""Inspecting and declaring the exchanges, queues and bindings of a topology, over AMQP."""

import asyncio
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel as RawChannel

from invalidator.broker.connection import Connection, InequivalentArgumentError, in_our_words, raw_channel
from invalidator.broker.topology import NO_DELIVERY_LIMIT, Queue, Topology, arguments_for
from invalidator.errors import ConfigurationError


class QueueInspector:
    """Inspects queues by passive declaration, on a channel that is kept as long as the broker keeps it.

    Never cancel an inspection: aiormq would close the channel, and a second close of ours would end the connection.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: RawChannel | None = None
        self._inspecting = asyncio.Lock()

    async def inspect(self, queue: str) -> tuple[int, int] | None:
        """Return a queue's (messages ready, consumers), None if there is no such queue."""
        async with self._inspecting, in_our_words(f'inspecting the queue "{queue}"'):
            if self._channel is None or self._channel.is_closed:
                self._channel = await raw_channel(self._connection)
            try:
                found = await self._channel.queue_declare(queue, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                return None  # and the broker has closed the channel, which is its way of saying no
            return found.message_count or 0, found.consumer_count or 0


async def exists(connection: Connection, queue: str) -> bool:
    """Return True if there is such a queue."""
    return await inspect_queue(connection, queue) is not None


async def inspect_queue(connection: Connection, queue: str) -> tuple[int, int] | None:
    """Inspect a queue once, see `QueueInspector.inspect`; the channel is closed with the connection."""
    return await QueueInspector(connection).inspect(queue)


async def declare(connection: Connection, topology: Topology) -> None:
    """Declare what is missing.

    Raises:
        ConfigurationError: something of that name exists with another argument, which the message names.
        RefusedError: this user may not declare it.
    """
    for name, kind in topology.exchanges().items():
        async with in_our_words(f'declaring the exchange "{name}"'):
            channel = await raw_channel(connection)
            await channel.exchange_declare(name, exchange_type=kind, durable=True)
            await channel.close()
    for queue in topology.queues():
        await _declare_queue(connection, queue)
    for exchange, queue_name, routing_key in topology.bindings():
        async with in_our_words(f'binding "{queue_name}" to "{exchange}"'):
            channel = await raw_channel(connection)
            await channel.queue_bind(queue_name, exchange, routing_key)
            await channel.close()


async def _declare_queue(connection: Connection, queue: Queue) -> None:
    try:
        await _declare_with(connection, queue.name, arguments_for(queue, major_version(connection)))
    except InequivalentArgumentError as error:
        if queue.is_log:
            await _assert_is_a_stream(connection, queue.name)
            return  # a second copy of another age or size is no reason to stop; see `topology verify`
        # A queue declared under RabbitMQ 3 has no delivery-limit argument; a policy sets it (see `topology verify`).
        if not queue.keeps or error.argument not in NO_DELIVERY_LIMIT:
            raise ConfigurationError(f"{error}; delete it or choose another broker.prefix") from error
        await _declare_with(connection, queue.name, queue.arguments)


async def _assert_is_a_stream(connection: Connection, name: str) -> None:
    """Raise ConfigurationError for another type of queue: of several arguments that differ, the broker names any."""
    try:
        await _declare_with(connection, name, {"x-queue-type": "stream"})
    except InequivalentArgumentError as error:
        if error.argument == "x-queue-type":
            fix = "delete it or choose another broker.prefix"
            raise ConfigurationError(f'"{name}" is there and is no stream; {fix}') from error


async def _declare_with(connection: Connection, name: str, arguments: dict[str, Any]) -> None:
    async with in_our_words(f'declaring the queue "{name}"'):
        channel: RawChannel = await raw_channel(connection)
        await channel.queue_declare(name, durable=True, arguments=arguments)
        await channel.close()


def major_version(connection: Connection) -> int:
    """Return the broker's major version, 3 or 4."""
    properties = connection.transport.connection.server_properties if connection.transport else {}
    version = properties.get("version", b"3")
    text = version.decode() if isinstance(version, bytes) else str(version)
    return int(text.partition(".")[0])
