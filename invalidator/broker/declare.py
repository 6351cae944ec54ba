"""Inspecting and declaring the exchanges, queues and bindings of a topology over AMQP."""

import asyncio
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel as RawChannel

from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.tap import TappedProtocol
from invalidator.broker.topology import Queue, Topology, arguments_for
from invalidator.errors import ConfigurationError


class QueueInspector:
    """Looks at the queues of one connection, through a channel that is kept as long as the broker keeps it.

    A look is never cancelled: aiormq then closes the channel, and a second close of ours would end the connection.
    """

    def __init__(self, connection: Connection, tapped: TappedProtocol | None = None) -> None:
        self.connection = connection
        #: Of the same connection, for who subscribes on it.
        self.tapped = tapped
        self._channel: RawChannel | None = None
        self._looking = asyncio.Lock()

    async def inspect(self, queue: str) -> tuple[int, int] | None:
        """(messages ready, consumers) of a queue, or None where there is no such queue."""
        async with self._looking, in_our_words(f'looking for the queue "{queue}"'):
            if self._channel is None or self._channel.is_closed:
                self._channel = await raw_channel(self.connection)
            try:
                found = await self._channel.queue_declare(queue, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                return None  # and the broker has closed the channel: that is how it says no
            return found.message_count or 0, found.consumer_count or 0


async def exists(connection: Connection, queue: str) -> bool:
    """Whether a queue is there."""
    return await inspect_queue(connection, queue) is not None


async def inspect_queue(connection: Connection, queue: str) -> tuple[int, int] | None:
    """One look, see `QueueInspector.inspect`; its channel closes with the connection."""
    return await QueueInspector(connection).inspect(queue)


async def declare(connection: Connection, topology: Topology) -> None:
    """Make what is missing.

    Raises:
        ConfigurationError: something of that name exists with other arguments; the message names which.
        RefusedError: this user may not.
    """
    for name, kind in topology.exchanges().items():
        async with in_our_words(f'declaring the exchange "{name}"'):
            channel = await raw_channel(connection)
            await channel.exchange_declare(name, exchange_type=kind, durable=True)
            await channel.close()
    for queue in topology.queues():
        await _declare_queue(connection, queue)
    async with in_our_words(f'binding "{topology.queue}" to "{topology.exchange}"'):
        channel = await raw_channel(connection)
        await channel.queue_bind(topology.queue, topology.exchange)
        await channel.close()


async def _declare_queue(connection: Connection, queue: Queue) -> None:
    try:
        await _declare_with(connection, queue.name, arguments_for(queue, major_version(connection)))
    except ConfigurationError as error:
        # A queue made under RabbitMQ 3 has no delivery-limit argument; a policy gives it one (see `topology verify`).
        if not queue.keeps or "x-delivery-limit" not in str(error):
            raise ConfigurationError(f"{error}; delete it or choose another broker.prefix") from error
        await _declare_with(connection, queue.name, queue.arguments)


async def _declare_with(connection: Connection, name: str, arguments: dict[str, Any]) -> None:
    async with in_our_words(f'declaring the queue "{name}"'):
        channel: RawChannel = await raw_channel(connection)
        await channel.queue_declare(name, durable=True, arguments=arguments)
        await channel.close()


def major_version(connection: Connection) -> int:
    """The broker's major version, 3 or 4."""
    properties = connection.transport.connection.server_properties if connection.transport else {}
    version = properties.get("version", b"3")
    text = version.decode() if isinstance(version, bytes) else str(version)
    return int(text.partition(".")[0])
