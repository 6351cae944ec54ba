"""Publishing from an event loop, as FastAPI's: one connection, any number of confirmations in flight on it."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import msgspec
from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage

from invalidator.app.publish.many import Many
from invalidator.app.publish.message import Message, broker_settings, message
from invalidator.app.publish.retry import Retry, waiting_until
from invalidator.broker.address import connection_name
from invalidator.broker.messages import Receipt
from invalidator.broker.publish import confirms
from invalidator.broker.publish.async_statements import AsyncStatements
from invalidator.broker.publish.numbers import Numbers
from invalidator.broker.publish.pipelined_publisher import PipelinedPublisher
from invalidator.broker.publish.publisher import ConfirmedPublisher, properties_of
from invalidator.broker.publish.replies import REPLY_TO, Replies
from invalidator.broker.wire.delivery import received
from invalidator.errors import InvalidatorError
from invalidator.events.event import Event
from invalidator.settings import BrokerSettings


class AsyncPublisher:
    """Publishes events, confirmed, for all tasks of one event loop; connects when first needed.

    ::

        async with AsyncPublisher("amqp://shop@rabbitmq.internal/", app_id="shop") as publisher:
            await publisher.publish("product_updated", {"id": "abc-123", "price": 109.99})  # after the commit

    The arguments are those of `Publisher`.
    """

    def __init__(
        self, broker: str | BrokerSettings, *, app_id: str = "", timeout: float = 1.0, cluster: str = ""
    ) -> None:
        self._settings = settings = msgspec.structs.replace(
            broker_settings(broker), connect_timeout=timeout, publish_timeout=timeout
        )
        self._exchange = settings.exchange
        self._app_id = app_id
        self._timeout = timeout
        self._name = connection_name("publisher", app_id)
        self._cluster = cluster
        self._replies = Replies(cluster)
        on_channel = self._receive_replies if cluster else None
        statements = AsyncStatements(Numbers(self._name), settings.log)
        self._publisher = ConfirmedPublisher(
            lambda: settings, name=self._name, on_channel=on_channel, statements=statements
        )

    async def publish(self, event_type: str, data: Mapping[str, Any], *, wait: float | None = None) -> Receipt | None:
        """Return once the broker has stored the event for every cluster; returns and raises as `Publisher.publish`."""
        return await self.send(message(event_type, data, app_id=self._app_id), wait=wait)

    async def send(self, message: Message, *, wait: float | None = None) -> Receipt | None:
        """Publish a message made before; returns and raises as `publish`."""
        loop = asyncio.get_running_loop()
        waiting = waiting_until(wait, self._cluster, now=loop.time())
        if waiting is None:
            await self._send(message, {})
            return None
        receipt: asyncio.Future[Receipt] = loop.create_future()
        try:
            await self._send(message, self._replies.expect(message.id, partial(_settle, receipt)))
            async with asyncio.timeout_at(waiting):
                return await receipt
        except TimeoutError:
            return None
        finally:
            self._replies.forget(message.id)

    async def publish_many(self, events: Iterable[Event]) -> int:
        """Publish events in order, thousands in flight, on a connection of their own; as `Publisher.publish_many`."""
        many = Many(events, app_id=self._app_id)
        while True:
            publisher: PipelinedPublisher[tuple[int, Message]] = PipelinedPublisher(
                self._settings, name=self._name, confirmed=lambda _: None
            )
            try:
                await publisher.open()
                await _publish(many, publisher)
            except InvalidatorError as error:
                with suppress(InvalidatorError):
                    await publisher.flush()  # the account is of what the broker says in the end
                _take_confirmed(many, publisher)
                many.failed(error, publisher.left())
            else:
                return many.sent()
            finally:
                await publisher.close()

    async def close(self) -> None:
        """Close the connection. Publishing again connects again."""
        await self._publisher.close()

    async def _send(self, message: Message, asking: dict[str, Any]) -> None:
        retry = Retry(self._timeout)
        while True:
            properties = properties_of(message.properties() | asking)
            try:
                await self._publisher.publish(
                    message.body, exchange=self._exchange, routing_key="", properties=properties, within=retry.left
                )
            except InvalidatorError as error:
                retry.failed(error)
            else:
                return

    async def _receive_replies(self, channel: RawChannel) -> None:
        await channel.basic_consume(REPLY_TO, self._on_reply, no_ack=True)

    async def _on_reply(self, message: DeliveredMessage) -> None:
        reply = received(message)
        self._replies.receive(reply.properties.correlation_id, reply.body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _settle(waiting: "asyncio.Future[Receipt]", receipt: Receipt) -> None:
    if not waiting.done():
        waiting.set_result(receipt)


async def _publish(many: Many, publisher: PipelinedPublisher[tuple[int, Message]]) -> None:
    for position, one in many:
        publisher.write(one.body, confirms.properties_of(one.properties()), (position, one))
        if position % 100 == 99:  # other tasks get a turn, and the broker the messages
            await asyncio.sleep(0)
            _take_confirmed(many, publisher)
        await publisher.room()  # before the next event is taken, so that each one that was taken is in the account
    await publisher.flush()


def _take_confirmed(many: Many, publisher: PipelinedPublisher[tuple[int, Message]]) -> None:
    if publisher.take_confirmed():
        many.progressed()
