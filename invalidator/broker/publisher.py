"""Publishing on a connection of its own: confirmed and mandatory, made when first needed, made anew when lost.

A publish either returns, and then the broker has stored the message in every queue bound for it; or raises, and after
an `UnconfirmedError` the message may have gone out nevertheless. Whoever owes it publishes it again: duplicates are
harmless here.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import aiormq
from aiormq.abc import AbstractChannel as RawChannel
from pamqp import commands

from invalidator.broker.connection import Connection, close, connect, in_our_words, raw_channel
from invalidator.errors import InvalidatorError, UnconfirmedError, UnreachableError, UnroutableError
from invalidator.settings import BrokerSettings

Properties = commands.Basic.Properties
PERSISTENT = 2


class ConfirmedPublisher:
    """One connection that only publishes: in an alarm the broker stops reading from any that has published once."""

    def __init__(
        self,
        broker: Callable[[], BrokerSettings],
        *,
        name: str,
        properties: dict[str, Any] | None = None,
        confirms: bool = True,
    ) -> None:
        #: Asked again before every connection, so that a changed password is read again; it may read a file.
        self._broker = broker
        self._timeout = broker().publish_timeout
        self._name = name
        self._properties = properties
        self._confirms = confirms
        self._connection: Connection | None = None
        self._channel: RawChannel | None = None
        self._connecting = asyncio.Lock()
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def publish(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        properties: Properties | None = None,
        mandatory: bool = True,
        within: float | None = None,
    ) -> None:
        """Publish and wait for the broker's confirmation, `broker.publish_timeout` seconds unless told otherwise.

        Raises:
            UnroutableError: no queue is bound there; nothing was stored.
            UnconfirmedError: no confirmation in time, or the broker refused to store it; publish again.
            UnreachableError: there is no broker; nothing was stored; publish again.
            RefusedError: this user may not publish there; nothing was stored.
        """
        properties = properties or Properties()
        properties.delivery_mode = PERSISTENT
        # aiormq finds a returned message by this id, so it must be there and no other message in flight may share it.
        properties.message_id = properties.message_id or uuid4().hex
        await self._refuse_while_blocked()
        where = f'publishing to "{exchange or routing_key}"'
        within = self._timeout if within is None else within
        channel: RawChannel | None = None
        try:
            async with asyncio.timeout(within), in_our_words(where):
                channel = await self._open_channel()
                await channel.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties,
                    mandatory=mandatory and self._confirms,
                )
        except InvalidatorError as error:
            meaning = _meaning(error, exchange, routing_key)
            if channel and type(meaning) is UnreachableError:
                meaning = UnconfirmedError(f"{meaning}; it may have gone out, publish it again")
            if isinstance(meaning, UnconfirmedError) and channel is self._channel:
                # Seen on 3.10: once refused because the queue's leader was lost, a channel is refused for as long as
                # that broker node is away, whoever leads by then.
                self._give_up()
            raise meaning from error
        except TimeoutError as error:
            if channel is None:
                raise UnreachableError(f"no broker within {within:g} s {where}") from error
            if not await self._is_blocked():
                self._give_up()  # the next try starts on a connection that may do better
            raise UnconfirmedError(
                f"the broker did not confirm within {within:g} s {where}: an alarm? see rabbitmq-diagnostics alarms"
            ) from error

    async def close(self) -> None:
        self._give_up()
        await asyncio.gather(*self._goodbyes)

    def _give_up(self) -> None:
        """Forget the connection; its good-bye, which a silent broker never answers, holds nobody up."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection:
            goodbye = asyncio.create_task(close(connection))
            self._goodbyes.add(goodbye)
            goodbye.add_done_callback(self._goodbyes.discard)

    async def _refuse_while_blocked(self) -> None:
        """What the broker does not read must not pile up in its socket, so nothing more is written."""
        if await self._is_blocked():
            raise UnconfirmedError(
                "the broker takes no messages while it is in an alarm: see rabbitmq-diagnostics alarms"
            )

    async def _is_blocked(self) -> bool:
        """Whether the broker has sent connection.blocked: it does to whoever publishes while a resource alarm is on."""
        if self._connection is None or _is_lost(self._connection):
            return False
        assert self._connection.transport
        try:
            async with asyncio.timeout(0):
                await self._connection.transport.connection.ready()
        except TimeoutError:
            return True
        return False

    async def _open_channel(self) -> RawChannel:
        async with self._connecting:
            if self._channel is None or self._channel.is_closed:
                if self._connection is None or _is_lost(self._connection):
                    self._give_up()
                    self._connection = await connect(self._broker(), name=self._name, properties=self._properties)
                self._channel = await raw_channel(self._connection, confirms=self._confirms)
            return self._channel


def _is_lost(connection: Connection) -> bool:
    return connection.is_closed or connection.transport is None or connection.transport.connection.is_closed


def _meaning(error: InvalidatorError, exchange: str, routing_key: str) -> InvalidatorError:
    """A return and a nack come out of aiormq as errors like any other; here they mean something of their own."""
    match error.__cause__:
        case aiormq.exceptions.PublishError() | aiormq.exceptions.ChannelNotFoundEntity():
            where = f'exchange "{exchange}"' if exchange else f'name "{routing_key}"'
            return UnroutableError(f"no queue is bound to the {where}: nothing stored the message")
        case aiormq.exceptions.DeliveryError():
            return UnconfirmedError("the broker would not store the message (a full queue, or one without a leader?)")
    return error
