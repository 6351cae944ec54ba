"""Dramatiq with a large prefetch, and only the middleware that the work needs."""

import threading
from typing import Any

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.rabbitmq import RabbitmqBroker  # type: ignore[import-not-found]

from tests.benchmarks.peers.surroundings import BROKER, QUEUE, hash_client

broker = RabbitmqBroker(url=BROKER, middleware=[])
dramatiq.set_broker(broker)
local = threading.local()


def client() -> Any:
    """Return this thread's client, which has connections of its own."""
    if not hasattr(local, "client"):
        local.client = hash_client()
    return local.client


def evict(product: str) -> None:
    client().delete(f"product:{product}")


evict = dramatiq.actor(evict, queue_name=QUEUE)
