"""Waiting for receipts: what every cluster says of every event that is published by hand.

    publish (reply_to, correlation_id) ─> every cluster evicts, fences, settles ─> receipt ─> this inbox

Receipts come by RabbitMQ's direct reply-to, on the very channel that published: there is no queue to make or to leave
behind, and nobody needs a permission for it.
"""

import asyncio
from collections.abc import Collection
from time import perf_counter
from uuid import uuid4

import msgspec
import pika
from pika.channel import Channel
from pika.spec import Basic

from invalidator.broker.messages import Receipt

#: The address that RabbitMQ replaces by one that leads back to this channel.
REPLY_TO = "amq.rabbitmq.reply-to"


class Answer(msgspec.Struct):
    """What one worker has said of all the events that it got."""

    cluster: str
    worker: str
    events: int = 0
    #: Keys that every node confirmed.
    evicted: int = 0
    #: Nodes that are owed some of the keys.
    parked: list[str] = []
    #: Reasons for which events are dead letters.
    dead: list[str] = []
    #: From publishing to the receipt, by the clock of whoever waits: the longest.
    milliseconds: float = 0.0
    #: Of them, the worker's.
    worker_milliseconds: float = 0.0

    def add(self, receipt: Receipt, milliseconds: float) -> None:
        self.events += 1
        self.evicted += receipt.evicted
        self.parked = sorted({*self.parked, *receipt.parked})
        self.dead = sorted({*self.dead, *filter(None, [receipt.dead])})
        if milliseconds > self.milliseconds:
            self.milliseconds, self.worker_milliseconds = round(milliseconds, 2), receipt.milliseconds


class Inbox:
    """Asks for receipts and counts them until every expected cluster has answered for every event."""

    def __init__(self, clusters: Collection[str], *, seconds: float) -> None:
        self._seconds = seconds
        #: Events by correlation id: when they were published.
        self._asked: dict[str, float] = {}
        #: By cluster, which events it has answered for.
        self._answered: dict[str, set[str]] = {cluster: set() for cluster in clusters}
        self._answers: dict[str, Answer] = {}
        self._opened = 0.0
        self._news = asyncio.Event()

    def open(self, channel: Channel) -> None:
        """Take the receipts that come back on this channel; to be called before anything is published on it."""
        channel.basic_consume(REPLY_TO, self._take, auto_ack=True)
        self._opened = perf_counter()

    def ask(self, properties: pika.BasicProperties) -> None:
        """Let an event that is about to be published ask for receipts."""
        properties.reply_to, properties.correlation_id = REPLY_TO, uuid4().hex
        self._asked[properties.correlation_id] = perf_counter()

    async def wait(self) -> None:
        """Until every receipt is here, or the time is up."""
        try:
            async with asyncio.timeout(self._seconds):
                while self.missing:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass  # `missing` says for whom

    @property
    def missing(self) -> list[str]:
        """The clusters that have not answered for every event."""
        return [cluster for cluster, ids in self._answered.items() if len(ids) < len(self._asked)]

    @property
    def answers(self) -> list[Answer]:
        return sorted(self._answers.values(), key=lambda answer: (answer.cluster, answer.worker))

    def _take(self, _: Channel, __: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        self.take(properties.correlation_id or "", body)

    def take(self, id: str, body: bytes) -> None:
        """Count a receipt, a cluster's first for this event; a second one means that the event came to it twice."""
        receipt = msgspec.json.decode(body, type=Receipt)
        answered = self._answered.setdefault(receipt.cluster, set())
        if id not in self._asked or id in answered:
            return
        answered.add(id)
        answer = self._answers.setdefault(receipt.worker, Answer(receipt.cluster, receipt.worker))
        # Whoever asked first also waited for the connection, which is no matter of the clusters.
        answer.add(receipt, (perf_counter() - max(self._asked[id], self._opened)) * 1000)
        self._news.set()
