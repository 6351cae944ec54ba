"""pika's BlockingConnection and HashClient."""

import json
from typing import Any

import pika

from tests.benchmarks.peers.surroundings import BROKER, PREFETCH, QUEUE, hash_client

client = hash_client()


def evict(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    client.delete(f"product:{json.loads(body)['id']}")
    channel.basic_ack(method.delivery_tag)


if __name__ == "__main__":
    channel = pika.BlockingConnection(pika.URLParameters(BROKER)).channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    channel.basic_consume(QUEUE, evict)
    channel.start_consuming()
