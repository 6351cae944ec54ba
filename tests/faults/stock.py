"""The stock way, in the worker's place: pika, pymemcache's HashClient, an acknowledgement after each `delete`.

    python -m tests.faults.stock --config FILE       (the worker's own configuration file)

It is written in good faith, as such workers usually are: timeouts are set, an error requeues the event, poison is
rejected to the dead-letter queue, and when the broker ends the process does, too, for its supervisor to restart it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import pika
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError
from yarl import URL

from invalidator.settings import load

PREFETCH = 100


def work(url: str, queue: str, nodes: list[tuple[str, int]]) -> None:
    client = HashClient(nodes, connect_timeout=1, timeout=1)

    def evict(channel: Any, method: Any, _: Any, body: bytes) -> None:
        try:
            event = json.loads(body)
        except ValueError:
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        try:
            client.delete(f"product:{event['id']}")
        except (MemcacheError, OSError):
            channel.basic_nack(method.delivery_tag, requeue=True)
        else:
            channel.basic_ack(method.delivery_tag)

    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(queue, evict)
        channel.start_consuming()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    settings = load(parser.parse_args().config)
    assert settings.broker.password
    url = URL(settings.broker.url).with_password(settings.broker.password.reveal())
    work(str(url), f"invalidator.{settings.cluster}", list(settings.nodes().values()))
