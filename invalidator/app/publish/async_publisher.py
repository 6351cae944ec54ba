"""Publishing from an event loop, as FastAPI's: one connection, any number of confirmations in flight on it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from invalidator.app.publish.message import Message, broker_settings, message
from invalidator.app.publish.retry import Retry
from invalidator.broker.address import connection_name
from invalidator.broker.publish.publisher import ConfirmedPublisher, properties_of
from invalidator.errors import InvalidatorError
from invalidator.settings import BrokerSettings


class AsyncPublisher:
    """Publishes events, confirmed, for all tasks of one event loop; connects when first needed.

    ::

        async with AsyncPublisher("amqp://shop@rabbitmq.internal/", app_id="shop") as publisher:
            await publisher.publish("product_updated", {"id": "abc-123", "price": 109.99})  # after the commit

    The arguments are those of `Publisher`.
    """

    def __init__(self, broker: str | BrokerSettings, *, app_id: str = "", timeout: float = 1.0) -> None:
        settings = msgspec.structs.replace(broker_settings(broker), publish_timeout=timeout)
        self._exchange = settings.exchange
        self._app_id = app_id
        self._timeout = timeout
        self._publisher = ConfirmedPublisher(lambda: settings, name=connection_name("publisher", app_id))

    async def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Return once the broker has stored the event for every cluster; raises as `Publisher.publish`."""
        await self.send(message(event_type, data, app_id=self._app_id))

    async def send(self, message: Message) -> None:
        """Publish a message made before; raises as `publish`."""
        retry = Retry(self._timeout)
        while True:
            try:
                await self._send(message, within=retry.left)
            except InvalidatorError as error:
                retry.failed(error)
            else:
                return

    async def close(self) -> None:
        """Close the connection. Publishing again connects again."""
        await self._publisher.close()

    async def _send(self, message: Message, *, within: float) -> None:
        properties = properties_of(message.properties())
        await self._publisher.publish(
            message.body, exchange=self._exchange, routing_key="", properties=properties, within=within
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
