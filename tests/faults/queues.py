"""The broker's queues: the number of waiting messages, and at the end their bodies."""

import asyncio
from collections.abc import Sequence

import aiormq
from aiormq.abc import AbstractConnection

#: Seconds to wait for an answer, since a broker that is being killed gives none.
ANSWER_SECONDS = 2.0


class Queues:
    """One connection, replaced when it is lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: AbstractConnection | None = None

    async def ready(self, names: Sequence[str]) -> dict[str, int] | None:
        """Return queue -> number of messages that are ready, or None while the broker does not answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if self._connection is None:
                    self._connection = await aiormq.connect(self._url)
                channel = await self._connection.channel()
                found = [await channel.queue_declare(name, passive=True) for name in names]
                await channel.close()
        except (aiormq.AMQPError, OSError, RuntimeError, TimeoutError, asyncio.InvalidStateError):
            self._connection = None
            return None
        return {name: queue.message_count or 0 for name, queue in zip(names, found, strict=True)}

    async def take(self, name: str) -> list[bytes]:
        """Take all messages out of a queue and return their bodies."""
        connection = await aiormq.connect(self._url)
        channel = await connection.channel()
        bodies = []
        while (message := await channel.basic_get(name, no_ack=True)).delivery.name != "Basic.GetEmpty":
            bodies.append(message.body)
        await connection.close()
        return bodies

    async def close(self) -> None:
        if self._connection:
            await self._connection.close()
