"""The witness: takes a copy of every event, and asks the database at once if a new read sees the change."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import aio_pika
import psycopg

from invalidator.errors import InvalidatorError
from invalidator.events.event import GAP
from tests.faults.followed.account import HOOKED, Change

#: Its queue, beside those of the clusters.
QUEUE = "witness"


class Witness:
    """Reads its queue through any outage of broker and database."""

    def __init__(self, broker: str, exchange: str, database: str) -> None:
        self._broker = broker
        self._exchange = exchange
        self._database = database
        self._sql: psycopg.AsyncConnection[Any] | None = None
        self.events: dict[str, Change] = {}
        #: Events of Django's hooks: id -> product and number.
        self.hooked: dict[str, tuple[int, int]] = {}
        self.repeated = self.renamed = self.early = self.gaps = 0
        #: Events for which the database could not be asked at once.
        self.unasked = 0

    async def declare(self) -> None:
        """Bind the queue before the first event is published."""
        async with await aio_pika.connect(self._broker) as connection:
            queue = await (await connection.channel()).declare_queue(
                QUEUE, durable=True, arguments={"x-queue-type": "quorum"}
            )
            await queue.bind(self._exchange)

    async def run(self) -> None:
        while True:
            with suppress(aio_pika.exceptions.AMQPError, ConnectionError, OSError, TimeoutError, InvalidatorError):
                await self._listen()
            await asyncio.sleep(0.2)

    async def _listen(self) -> None:
        arrived: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage | None] = asyncio.Queue()
        async with await aio_pika.connect(self._broker, heartbeat=5) as connection:
            connection.close_callbacks.add(lambda *_: arrived.put_nowait(None))
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=500)
            queue = await channel.get_queue(QUEUE)
            await queue.consume(arrived.put)
            while message := await arrived.get():
                batch = [message]
                while not arrived.empty() and (more := arrived.get_nowait()):
                    batch.append(more)
                await self._take(batch)
                await batch[-1].ack(multiple=True)

    async def _take(self, batch: list[aio_pika.abc.AbstractIncomingMessage]) -> None:
        new: list[Change] = []
        for message in batch:
            body = json.loads(message.body)
            id = str(message.message_id)
            if message.type == GAP:
                self.gaps += 1
                continue
            if message.type == HOOKED:
                self.hooked[id] = body["id"], body["change"]
                continue
            row = body["after"] or body["before"]
            change = Change(body["op"], row["id"], row["change"])
            known = self.events.setdefault(id, change)
            self.repeated += bool(message.redelivered) or known is not change
            self.renamed += known != change
            if known is change:
                new.append(change)
        if new:
            await self._ask(new)

    async def _ask(self, changes: list[Change]) -> None:
        """Count the changes that a new read does not see."""
        try:
            if self._sql is None:
                self._sql = await psycopg.AsyncConnection.connect(self._database, autocommit=True)
            numbers = [change.number for change in changes]
            rows = await (
                await self._sql.execute("SELECT op, product, change FROM history WHERE change = ANY(%s)", [numbers])
            ).fetchall()
            self.early += len(set(changes) - {Change(*row) for row in rows})
        except psycopg.OperationalError:
            self._sql = None
            self.unasked += len(changes)

    async def close(self) -> None:
        if self._sql:
            await self._sql.close()
