"""Receipts for a publisher that waits. They come by RabbitMQ's direct reply-to, on the channel that published. Pure.

    publish (reply_to, correlation_id) ─> every cluster evicts, settles ─> receipt ─> the expected cluster's counts

That needs no queue and no permission, but a consumer of `REPLY_TO` on the channel, before anything is published on it.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from invalidator.broker.messages import Receipt

#: RabbitMQ replaces this address by one that leads back to the publishing channel.
REPLY_TO: Final = "amq.rabbitmq.reply-to"

_decode = msgspec.json.Decoder(Receipt).decode


class Replies:
    """The receipts that publishes wait for, by correlation id."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._expected: dict[str, Callable[[Receipt], object]] = {}

    def expect(self, id: str, take: Callable[[Receipt], object]) -> dict[str, Any]:
        """Call ``take`` with the cluster's receipt for ``id``, and return the AMQP properties that ask for it."""
        self._expected[id] = take
        return {"reply_to": REPLY_TO, "correlation_id": id}

    def forget(self, id: str) -> None:
        self._expected.pop(id, None)

    def receive(self, id: str | None, body: bytes) -> None:
        take = self._expected.get(id or "")
        if take and (receipt := _decode(body)).cluster == self._cluster:
            take(receipt)
