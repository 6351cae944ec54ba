"""kombu's ConsumerMixin over py-amqp, and HashClient."""

from typing import Any

from kombu import Connection, Queue  # type: ignore[import-not-found]
from kombu.mixins import ConsumerMixin  # type: ignore[import-not-found]

from tests.benchmarks.peers.surroundings import BROKER, PREFETCH, QUEUE, hash_client


class Evicting(ConsumerMixin):  # type: ignore[misc]
    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._client = hash_client()

    def get_consumers(self, consumer: Any, channel: Any) -> list[Any]:
        return [
            consumer([Queue(QUEUE, no_declare=True)], callbacks=[self.evict], accept=["json"], prefetch_count=PREFETCH)
        ]

    def evict(self, body: dict[str, Any], message: Any) -> None:
        self._client.delete(f"product:{body['id']}")
        message.ack()


if __name__ == "__main__":
    with Connection(BROKER, heartbeat=0) as connection:
        Evicting(connection).run()
