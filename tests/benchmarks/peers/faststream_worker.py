"""FastStream on RabbitMQ, aiomcache, uvloop."""

from typing import Any

import uvloop  # type: ignore[import-not-found]
from faststream import AckPolicy, FastStream  # type: ignore[import-not-found]
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue  # type: ignore[import-not-found]

from tests.benchmarks.peers.surroundings import BROKER, PREFETCH, QUEUE, async_owner

CONNECTIONS = 8

# Without `apply_types` nothing is validated or injected; FastStream itself decodes the JSON.
broker = RabbitBroker(BROKER, logger=None, apply_types=False, default_channel=Channel(prefetch_count=PREFETCH))
owner = None


async def evict(event: dict[str, Any]) -> None:
    global owner  # noqa: PLW0603
    owner = owner or async_owner(CONNECTIONS)
    key = f"product:{event['id']}".encode()
    await owner(key).delete(key)


broker.subscriber(RabbitQueue(QUEUE, declare=False), ack_policy=AckPolicy.NACK_ON_ERROR)(evict)

if __name__ == "__main__":
    uvloop.run(FastStream(broker, logger=None).run())
