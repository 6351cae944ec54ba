"""Publishing, confirmed and mandatory, on a connection that is made when first needed and replaced when lost.

A publish returns once the broker has stored the message in every bound queue. It raises otherwise, and after an
`UnconfirmedError` the message may have gone out nevertheless. The caller publishes it again: duplicates do no harm.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import uuid4

import aiormq
from aiormq.abc import AbstractChannel as RawChannel
from pamqp import commands

from invalidator.broker.connection import Connection, close, connect, in_our_words, raw_channel
from invalidator.broker.errors import (
    did_not_confirm,
    is_in_an_alarm,
    may_have_gone_out,
    no_queue_is_bound,
    would_not_store,
)
from invalidator.broker.messages import PERSISTENT
from invalidator.broker.publish.async_statements import AsyncStatements
from invalidator.errors import InvalidatorError, UnconfirmedError, UnreachableError
from invalidator.settings import BrokerSettings

Properties = commands.Basic.Properties


class ConfirmedPublisher:
    """One connection that only publishes, because in an alarm the broker stops reading any that has ever published."""

    def __init__(
        self,
        broker: Callable[[], BrokerSettings],
        *,
        name: str,
        properties: dict[str, Any] | None = None,
        confirms: bool = True,
        on_channel: Callable[[RawChannel], Awaitable[object]] | None = None,
        statements: AsyncStatements | None = None,
    ) -> None:
        #: Called before every connection, so that a changed password is read again; it may read a file.
        self._broker = broker
        self._timeout = broker().publish_timeout
        self._name = name
        self._properties = properties
        self._confirms = confirms
        #: Called with each new channel, before anything is published on it.
        self._on_channel = on_channel
        #: Numbers what is published, if that are events, and there is a log.
        self._statements = statements
        self._connection: Connection | None = None
        self._channel: RawChannel | None = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

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
        """Publish and wait for the broker's confirmation, by default `broker.publish_timeout` seconds.

        Raises:
            UnroutableError: nothing was stored, because no queue is bound there.
            UnconfirmedError: no confirmation came in time, or the broker would not store the message; publish again.
            UnreachableError: nothing was stored, because no broker answers; publish again.
            RefusedError: nothing was stored, because this user may not publish there.
        """
        properties = properties or Properties()
        properties.delivery_mode = PERSISTENT
        # aiormq finds a returned message by this id, so it must be there, and no other message in flight may share it.
        properties.message_id = properties.message_id or uuid4().hex
        await self._refuse_while_blocked()
        doing = f'publishing to "{exchange or routing_key}"'
        within = self._timeout if within is None else within
        channel: RawChannel | None = None
        try:
            async with asyncio.timeout(within), in_our_words(doing):
                channel = await self._open_channel()
                with self._numbered(properties):
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
                meaning = may_have_gone_out(meaning)
            if isinstance(meaning, UnconfirmedError) and channel is self._channel:
                # Seen on 3.10: a channel that was refused because the queue's leader was lost is refused for as long as
                # that broker node is away, even when another node leads by then.
                self._give_up()
            raise meaning from error
        except TimeoutError as error:
            if channel is None:
                raise UnreachableError(f"no broker within {within:g} s {doing}") from error
            if await self._is_blocked():
                raise is_in_an_alarm() from error
            self._give_up()  # the next try starts on a connection that may do better
            raise did_not_confirm(within, doing) from error

    async def close(self) -> None:
        """Close the connection. Publishing again connects again."""
        if self._statements:
            await self._statements.close()
        self._give_up()
        await asyncio.gather(*self._closing)

    def _numbered(self, properties: Properties) -> AbstractContextManager[None]:
        return self._statements.numbered(properties) if self._statements else nullcontext()

    def _give_up(self) -> None:
        """Forget the connection, and close it in the background, because a silent broker never answers that."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection:
            closing = asyncio.create_task(close(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def _refuse_while_blocked(self) -> None:
        """Write nothing more while the broker does not read, because it would pile up in the socket."""
        if await self._is_blocked():
            raise is_in_an_alarm()

    async def _is_blocked(self) -> bool:
        """Return True if the broker has sent connection.blocked, as it does to publishers during a resource alarm."""
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
                channel = await raw_channel(self._connection, confirms=self._confirms)
                if self._on_channel:
                    await self._on_channel(channel)
                if self._statements:
                    await self._statements.open_on(self._connection)
                self._channel = channel
            return self._channel


def properties_of(properties: Mapping[str, Any]) -> Properties:
    """Return AMQP properties, given by name, as aiormq takes them."""
    return Properties(**{"message_type" if name == "type" else name: value for name, value in properties.items()})


def _is_lost(connection: Connection) -> bool:
    return connection.is_closed or connection.transport is None or connection.transport.connection.is_closed


def _meaning(error: InvalidatorError, exchange: str, routing_key: str) -> InvalidatorError:
    """Return the error that a return or a nack means here; aiormq raises them like any other."""
    match error.__cause__:
        case aiormq.exceptions.PublishError() | aiormq.exceptions.ChannelNotFoundEntity():
            return no_queue_is_bound(exchange, routing_key)
        case aiormq.exceptions.DeliveryError():
            return would_not_store()
    return error
