"""What exists in the broker: names, arguments, and how they are declared.

    product.updates (fanout) ──> invalidator.<cluster> ──(rejected, or over its limit)──> invalidator.<cluster>.dead
                                 invalidator.<cluster>.parked.<label>   one a node: what is owed to it
                 (a while later) invalidator.<cluster> <── invalidator.<cluster>.again.<milliseconds>ms
    cache.purged (direct, routing key: the cluster)                     what was evicted, for near caches and warmers

Rules of this file:

1. Arguments hold what losslessness needs, because AMQP cannot set policies and a default would lose: a quorum queue
   with a delivery limit and no dead-letter exchange *deletes*, and RabbitMQ 4 gives every quorum queue a limit of 20.
2. Limits and lengths are policy, so that operators stay in charge (`definitions`).
3. What nobody consumes in order (dead letters, debts, second evictions) has no delivery limit: before RabbitMQ 4.3 a
   mere look counts as a delivery.
4. Each delay of second evictions has a queue of its own: messages expire only at the head of a queue, so one that waits
   for long would hold up those behind it.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel as RawChannel

from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.tap import TappedProtocol
from invalidator.errors import ConfigurationError
from invalidator.settings import Settings

#: What keeps looks and crashes from deleting a dead letter or a debt; RabbitMQ 3 has no limit and refuses this value.
NO_DELIVERY_LIMIT = {"x-delivery-limit": -1}
#: The first major version that has a limit to be switched off.
NEEDS_NO_LIMIT = 4


@dataclass(frozen=True)
class Queue:
    """A durable queue and the arguments it must have been made with."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Whether it holds what nobody may lose by looking at it.
    keeps: bool = False


@dataclass(frozen=True)
class Topology:
    """One cluster's names, as its settings give them."""

    cluster: str
    exchange: str
    purged: str
    prefix: str
    queue: str
    labels: tuple[str, ...]
    #: After how many milliseconds rules have their keys evicted a second time.
    delays_ms: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> "Topology":
        broker = settings.broker
        return cls(
            cluster=settings.cluster,
            exchange=broker.exchange,
            purged=broker.purged_exchange,
            prefix=broker.prefix,
            queue=broker.queue or f"{broker.prefix}.{settings.cluster}",
            labels=tuple(settings.nodes()),
            delays_ms=tuple(sorted({rule.again_ms for rule in settings.rule if rule.again_ms})),
        )

    @property
    def dead(self) -> str:
        return f"{self.queue}.dead"

    def parked(self, label: str) -> str:
        return f"{self.queue}.parked.{label}"

    def again(self, delay_ms: int) -> str:
        return f"{self.queue}.again.{delay_ms}ms"

    def exchanges(self) -> dict[str, str]:
        """Name -> type."""
        return {self.exchange: "fanout", self.purged: "direct"}

    def queues(self) -> Iterator[Queue]:
        yield Queue(
            self.queue,
            {
                "x-queue-type": "quorum",
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.dead,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )
        # A length limit, by some policy for all queues, must refuse new letters and debts, not drop old ones.
        keeps = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
        for name in (self.dead, *map(self.parked, self.labels)):
            yield Queue(name, keeps, keeps=True)
        for delay_ms in self.delays_ms:
            yield Queue(
                self.again(delay_ms),
                {
                    "x-queue-type": "quorum",
                    "x-message-ttl": delay_ms,
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": self.queue,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                },
                keeps=True,
            )

    def definitions(self, vhost: str, *, major_version: int) -> dict[str, Any]:
        """What `rabbitmqctl import_definitions` takes, for RabbitMQ 3 or 4: no users."""
        everywhere = {"vhost": vhost, "durable": True, "auto_delete": False}
        return {
            "vhosts": [{"name": vhost}],
            "exchanges": [
                {**everywhere, "name": name, "type": kind, "internal": False, "arguments": {}}
                for name, kind in self.exchanges().items()
            ],
            "queues": [
                {**everywhere, "name": queue.name, "arguments": _arguments(queue, major_version)}
                for queue in self.queues()
            ],
            "bindings": [
                {
                    "vhost": vhost,
                    "source": self.exchange,
                    "destination": self.queue,
                    "destination_type": "queue",
                    "routing_key": "",
                    "arguments": {},
                }
            ],
            "policies": [self.keeping_policy(vhost)] if major_version >= NEEDS_NO_LIMIT else [],
        }

    def keeping_policy(self, vhost: str) -> dict[str, Any]:
        """For queues made under RabbitMQ 3, whose arguments nobody can change: no delivery limit by policy."""
        return {
            "vhost": vhost,
            "name": f"{self.queue}: keep dead letters and debts",
            "pattern": rf"^{re.escape(self.queue)}\.(dead|again\..+|parked\..+)$",
            "apply-to": "queues",
            "priority": 100,
            "definition": {"delivery-limit": -1},
        }


class Onlooker:
    """Looks at the queues of one connection, through a channel that is kept as long as the broker keeps it.

    A look is never cancelled: aiormq then closes the channel, and a second close of ours would end the connection.
    """

    def __init__(self, connection: Connection, tapped: TappedProtocol | None = None) -> None:
        self.connection = connection
        #: Of the same connection, for who subscribes on it.
        self.tapped = tapped
        self._channel: RawChannel | None = None
        self._looking = asyncio.Lock()

    async def look(self, queue: str) -> tuple[int, int] | None:
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
    return await look(connection, queue) is not None


async def look(connection: Connection, queue: str) -> tuple[int, int] | None:
    """One look, see `Onlooker.look`; its channel closes with the connection."""
    return await Onlooker(connection).look(queue)


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
        await _declare_with(connection, queue.name, _arguments(queue, major_version(connection)))
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


def _arguments(queue: Queue, major: int) -> dict[str, Any]:
    return queue.arguments | (NO_DELIVERY_LIMIT if queue.keeps and major >= NEEDS_NO_LIMIT else {})
