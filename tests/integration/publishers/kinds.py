"""A publisher for threads and one for asyncio, called alike."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from invalidator.app.publish.async_publisher import AsyncPublisher
from invalidator.app.publish.publisher import Publisher
from invalidator.events.event import Event
from invalidator.operate.topology import declared
from tests.integration.shop import settings_for

EVENT = {"id": "abc-123", "price": 109.99}
QUEUE = "invalidator.eu"


class Threads:
    """A `Publisher`, called as from a thread."""

    def __init__(self, url: str, **options: Any) -> None:
        self.publisher = Publisher(url, app_id="shop", **options)

    async def publish(self, type: str = "product_updated", data: Mapping[str, Any] = EVENT) -> None:
        await asyncio.to_thread(self.publisher.publish, type, data)

    async def publish_many(self, events: Iterable[Event]) -> int:
        return await asyncio.to_thread(self.publisher.publish_many, events)

    async def close(self) -> None:
        await asyncio.to_thread(self.publisher.close)


class Loop:
    """An `AsyncPublisher`."""

    def __init__(self, url: str, **options: Any) -> None:
        self.publisher = AsyncPublisher(url, app_id="shop", **options)

    async def publish(self, type: str = "product_updated", data: Mapping[str, Any] = EVENT) -> None:
        await self.publisher.publish(type, data)

    async def publish_many(self, events: Iterable[Event]) -> int:
        return await self.publisher.publish_many(events)

    async def close(self) -> None:
        await self.publisher.close()


Make = Callable[..., "Threads | Loop"]


async def declare(url: str) -> None:
    await declared(settings_for(url, {"c1": "127.0.0.1:11211"}))
