"""Waiting for receipts: the answers of every cluster to events that are published by hand.

    publish (reply_to, correlation_id) ─> every cluster evicts, fences, settles ─> receipt ─> this inbox

Receipts come by RabbitMQ's direct reply-to, on the very channel that published. That needs no queue and no permission.
"""

import asyncio
from collections.abc import Collection
from time import perf_counter
from uuid import uuid4

import msgspec
import pika
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage
from pika.channel import Channel
from pika.spec import Basic

from invalidator.broker.messages import Receipt
from invalidator.broker.publish.publisher import Properties
from invalidator.broker.publish.replies import REPLY_TO
from invalidator.broker.wire.delivery import received


class Answer(msgspec.Struct):
    """The receipts of one worker, added up."""

    cluster: str
    worker: str
    events: int = 0
    #: Keys that every node confirmed.
    evicted: int = 0
    #: Nodes for which some of the keys are parked.
    parked: list[str] = []
    #: Reasons for which events are dead letters.
    dead: list[str] = []
    #: The number of these events.
    died: int = 0
    #: The longest time from publishing to the receipt, by this process's clock.
    milliseconds: float = 0.0
    #: The worker's share of that time.
    worker_milliseconds: float = 0.0

    def add(self, receipt: Receipt, milliseconds: float) -> None:
        self.events += 1
        self.evicted += receipt.evicted
        self.parked = sorted({*self.parked, *receipt.parked})
        self.died += receipt.dead is not None
        self.dead = sorted({*self.dead, *filter(None, [receipt.dead])})
        if milliseconds > self.milliseconds:
            self.milliseconds, self.worker_milliseconds = round(milliseconds, 2), receipt.milliseconds


class Inbox:
    """Asks for receipts and counts them until every expected cluster has answered for every event."""

    def __init__(self, clusters: Collection[str], *, seconds: float) -> None:
        self._seconds = seconds
        #: Correlation id -> when the event was published.
        self._asked: dict[str, float] = {}
        #: Cluster -> the correlation ids that it has answered.
        self._answered: dict[str, set[str]] = {cluster: set() for cluster in clusters}
        self._answers: dict[str, Answer] = {}
        self._opened = 0.0
        self._arrived = asyncio.Event()

    def open(self, channel: Channel) -> None:
        """Receive receipts on this channel. Call it before anything is published on the channel."""
        channel.basic_consume(REPLY_TO, self._receive, auto_ack=True)
        self._opened = perf_counter()

    async def open_on(self, channel: RawChannel) -> None:
        """Receive receipts on a channel of aiormq's, as `open` does on one of pika's."""
        await channel.basic_consume(REPLY_TO, self._received, no_ack=True)
        self._opened = self._opened or perf_counter()

    def ask(self, properties: "pika.BasicProperties | Properties") -> None:
        """Make an event that is about to be published ask for receipts, by its own correlation id if it has one."""
        id = properties.correlation_id or uuid4().hex
        if id not in self._asked:  # else two events would share their receipts
            properties.reply_to, properties.correlation_id = REPLY_TO, id
            self._asked[id] = perf_counter()

    async def wait(self) -> None:
        """Wait until every receipt is here or the time is up."""
        try:
            async with asyncio.timeout(self._seconds):
                while self.missing:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass  # `missing` names the clusters

    @property
    def missing(self) -> list[str]:
        """The clusters that have not answered for every event."""
        return [cluster for cluster, ids in self._answered.items() if len(ids) < len(self._asked)]

    @property
    def unanswered(self) -> int:
        """The events for which not even one cluster has answered."""
        return len(self._asked.keys() - set().union(*self._answered.values()))

    @property
    def answers(self) -> list[Answer]:
        return sorted(self._answers.values(), key=lambda answer: (answer.cluster, answer.worker))

    def _receive(self, _: Channel, __: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
        self.take(properties.correlation_id or "", body)

    async def _received(self, message: DeliveredMessage) -> None:
        receipt = received(message)
        self.take(receipt.properties.correlation_id or "", receipt.body)

    def take(self, id: str, body: bytes) -> None:
        """Count a cluster's first receipt for an event. A second one means that the event was delivered twice."""
        receipt = msgspec.json.decode(body, type=Receipt)
        answered = self._answered.setdefault(receipt.cluster, set())
        if id not in self._asked or id in answered:
            return
        answered.add(id)
        answer = self._answers.setdefault(receipt.worker, Answer(receipt.cluster, receipt.worker))
        # The first events also waited for the connection, which has nothing to do with the clusters.
        answer.add(receipt, (perf_counter() - max(self._asked[id], self._opened)) * 1000)
        self._arrived.set()
