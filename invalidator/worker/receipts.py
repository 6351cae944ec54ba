"""Answers publishers that wait for an eviction: sends a receipt for each settled event that asks for one.

An event asks with its AMQP properties ``reply_to`` and ``correlation_id``, and every cluster answers for itself.

Rules of this file:

1. A receipt may be lost. The loss is counted and the receipt is not sent again: the publisher has a time limit.
2. Receipts go through the default exchange, which reaches every queue of the vhost. So they go only to direct reply-to
   and to queues with the prefix that the settings name: a user who may publish events must not write anywhere else.
3. A malformed direct reply-to makes RabbitMQ close the connection that answers it. An address that can be seen to be
   malformed is refused here, and the connection is never the one that parks debts.
"""

import asyncio
import base64
import binascii
from collections.abc import Collection, Mapping, Sequence

import msgspec

from invalidator.broker.messages import Receipt
from invalidator.broker.publish.publisher import ConfirmedPublisher, Properties
from invalidator.broker.wire.delivery import Delivery, wanting_receipts
from invalidator.errors import InvalidatorError
from invalidator.events.quoting import quoted
from invalidator.runtime import metrics
from invalidator.runtime.logs import Log
from invalidator.runtime.outage import Outage
from invalidator.worker.planner import Plans

#: RabbitMQ replaces the address ``amq.rabbitmq.reply-to`` by this and two words in base64.
DIRECT = "amq.rabbitmq.reply-to."
#: Receipts that may wait to be sent; further ones are dropped.
WAITING = 1000

log = Log(__name__)


class Receipts:
    """The receipts of one worker, sent by a task of their own."""

    def __init__(
        self, publisher: ConfirmedPublisher, planner: Plans, *, cluster: str, worker: str, prefix: str | None = None
    ) -> None:
        self._publisher = publisher
        self._planner = planner
        self._cluster = cluster
        self._worker = worker
        self._prefix = prefix
        self._waiting: asyncio.Queue[tuple[Receipt, str, str]] = asyncio.Queue(WAITING)

    def answer(
        self, deliveries: Sequence[Delivery], parked: Mapping[str, Collection[bytes]], *, milliseconds: float
    ) -> None:
        """Queue a receipt for each event of a batch that asks for one; ``parked`` holds the parked keys by node."""
        for delivery in wanting_receipts(deliveries):
            address, id = delivery.properties.reply_to, delivery.properties.correlation_id
            if not (address and id and self._may_answer(address)):
                metrics.RECEIPTS.labels("refused").inc()
                log.info("receipt not sent: reply_to is not an allowed destination", reply_to=quoted(address or ""))
                continue
            try:
                self._waiting.put_nowait((self._receipt(delivery, parked, milliseconds), address, id))
            except asyncio.QueueFull:
                metrics.RECEIPTS.labels("lost").inc()

    async def run(self) -> None:
        """Send the receipts that wait, one by one."""
        outage = Outage(log.info, "could not send a receipt; its publisher waits in vain")
        while True:
            receipt, address, id = await self._waiting.get()
            try:
                await self._publisher.publish(
                    msgspec.json.encode(receipt),
                    exchange="",
                    routing_key=address,
                    properties=Properties(content_type="application/json", message_type="receipt", correlation_id=id),
                    # RabbitMQ returns a mandatory message to a direct reply-to although it delivers it.
                    mandatory=False,
                )
            except InvalidatorError as error:
                metrics.RECEIPTS.labels("lost").inc()
                outage.lasts(str(error))
            else:
                outage.ends()
                metrics.RECEIPTS.labels("sent").inc()

    def _receipt(self, delivery: Delivery, parked: Mapping[str, Collection[bytes]], milliseconds: float) -> Receipt:
        """Return the receipt of one event.

        The event is planned again, alone, because a batch does not record which event produced which key.
        """
        plan = self._planner.plan([delivery])
        keys, dead = set(plan.keys), plan.poison[0][1].reason if plan.poison else None
        by_node = {label: keys.intersection(debt) for label, debt in parked.items()}
        return Receipt(
            self._cluster,
            self._worker,
            round(milliseconds, 2),
            evicted=len(keys.difference(*by_node.values())),
            parked=sorted(label for label, debt in by_node.items() if debt),
            dead=dead,
        )

    def _may_answer(self, address: str) -> bool:
        if self._prefix and address.startswith(self._prefix):
            return True
        words = address.removeprefix(DIRECT).split(".")
        return address.startswith(DIRECT) and len(words) == 2 and all(map(_is_base64, words))


def _is_base64(word: str) -> bool:
    try:
        return bool(base64.b64decode(word, validate=True))
    except (binascii.Error, ValueError):  # ValueError: not even ASCII
        return False
