"""Publishing as an application should: persistent, mandatory, and again until it is confirmed."""

import asyncio
import itertools
import os
from datetime import UTC, datetime
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from pamqp import commands

from invalidator.broker.wire.timestamp import stamp

#: Seconds to wait for a confirmation before the connection is replaced.
CONFIRM_SECONDS = 20.0
#: Seconds between two attempts.
RETRY_SECONDS = 0.5


class Publishing:
    """One connection, replaced when it is lost. It is not the product's own publisher, because it judges that."""

    def __init__(self, url: str, *, stamps: bool = False) -> None:
        self._url = url
        #: True if each event says when it was published.
        self._stamps = stamps
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._connecting = asyncio.Lock()
        self._not_before = 0.0
        self._ids = (f"{os.getpid()}-{number}" for number in itertools.count())
        #: Attempts to publish.
        self.attempted = 0

    async def confirmed(self, body: bytes) -> None:
        """Publish until the broker confirms it."""
        while not await self._try(body):
            await asyncio.sleep(RETRY_SECONDS)

    async def close(self) -> None:
        """Close the connection."""
        if self._connection and not self._connection.is_closed:
            await self._connection.close()

    async def _try(self, body: bytes) -> bool:
        # Each attempt has another message id, by which aiormq recognises a returned message.
        headers: dict[str, Any] = stamp(datetime.now(UTC)) if self._stamps else {}
        properties = commands.Basic.Properties(
            content_type="application/json", delivery_mode=2, message_id=next(self._ids), headers=headers
        )
        channel = None
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                channel = await self._open()
                self.attempted += 1
                await channel.basic_publish(body, exchange="product.updates", properties=properties, mandatory=True)
        except (Exception, asyncio.CancelledError):
            # aiormq ends what waits for a lost connection with any error, also with a bare Exception, or cancels it.
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            if channel is self._channel:
                self._channel = None
            return False
        return True

    async def _open(self) -> AbstractChannel:
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                loop = asyncio.get_running_loop()
                if loop.time() < self._not_before:
                    raise ConnectionError("tried a moment ago")
                self._not_before = loop.time() + RETRY_SECONDS
                if self._connection and not self._connection.is_closed:
                    await self._connection.close()
                self._connection = await aiormq.connect(self._url)
                self._channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            return self._channel
