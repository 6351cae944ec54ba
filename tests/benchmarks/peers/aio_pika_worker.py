"""aio-pika's consumer, aiomcache and uvloop, with a task for each message, as aio-pika makes them."""

import asyncio
import json

import aio_pika
import uvloop  # type: ignore[import-not-found]
from aio_pika.abc import AbstractIncomingMessage

from tests.benchmarks.peers.surroundings import BROKER, PREFETCH, QUEUE, async_owner

CONNECTIONS = 8


async def main() -> None:
    owner = async_owner(CONNECTIONS)

    async def evict(message: AbstractIncomingMessage) -> None:
        key = f"product:{json.loads(message.body)['id']}".encode()
        await owner(key).delete(key)
        await message.ack()

    connection = await aio_pika.connect_robust(BROKER)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(QUEUE)
    await queue.consume(evict)
    await asyncio.Future()


if __name__ == "__main__":
    uvloop.run(main())
