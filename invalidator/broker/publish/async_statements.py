"""`Statements` for aiormq: a channel on which a publisher states which of its numbered events are confirmed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiormq
import msgspec
from aiormq.abc import AbstractChannel as RawChannel
from pamqp.commands import Basic

from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.messages import PERSISTENT, STATEMENT
from invalidator.broker.publish.numbers import STATEMENT_SECONDS, Numbers
from invalidator.broker.wire.number import NUMBER, in_text
from invalidator.broker.wire.timestamp import stamp
from invalidator.errors import InvalidatorError


class AsyncStatements:
    """The numbers and statements of a publisher, on one connection after another."""

    def __init__(self, numbers: Numbers, exchange: str) -> None:
        self._numbers = numbers
        self._exchange = exchange
        self._connection: Connection | None = None
        self._channel: RawChannel | None = None
        self._stating: asyncio.Task[None] | None = None

    async def open_on(self, connection: Connection) -> None:
        """Open the channel, if there is a log. Raises `InvalidatorError` if the connection is lost."""
        if self._is_there() or self._numbers.is_refused:
            return
        async with in_our_words(f'looking for the exchange "{self._exchange}"'):
            channel = await raw_channel(connection, confirms=True)
            try:
                await channel.exchange_declare(self._exchange, passive=True)
            except aiormq.exceptions.ChannelNotFoundEntity:
                return
        channel.closing.add_done_callback(self._on_closed)
        self._connection, self._channel = connection, channel

    @contextmanager
    def numbered(self, properties: Basic.Properties) -> Iterator[None]:
        """Add the next number, if there is a log; it is confirmed if the block ends without an error, else void."""
        if not self._is_there() or self._numbers.is_refused:
            yield
            return
        number, is_void = self._numbers.take(), True
        properties.headers = {**(properties.headers or {}), NUMBER: in_text(self._numbers.epoch, number)}
        try:
            yield
            is_void = False
        finally:
            self._numbers.settled(number, is_void=is_void)
            if self._stating is None or self._stating.done():
                self._stating = asyncio.create_task(self._state_until_quiet())

    async def close(self) -> None:
        """Send the last statement; never raises."""
        if self._stating:
            self._stating.cancel()
            await asyncio.gather(self._stating, return_exceptions=True)
        await self._state()

    async def _state_until_quiet(self) -> None:
        while not self._numbers.are_stated:
            await asyncio.sleep(STATEMENT_SECONDS)
            await self._state()

    async def _state(self) -> None:
        with suppress(InvalidatorError):  # the next statement says the same again
            async with in_our_words("stating what is confirmed"), asyncio.timeout(STATEMENT_SECONDS):
                if self._connection:
                    await self.open_on(self._connection)  # again, if a statement that took too long closed the channel
                if self._is_there() and (statement := self._numbers.statement()):
                    assert self._channel
                    body = msgspec.json.encode(statement)
                    await self._channel.basic_publish(body, exchange=self._exchange, properties=_properties())
                    self._numbers.stored(statement)

    def _is_there(self) -> bool:
        return self._channel is not None and not self._channel.is_closed

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        error = None if closing.cancelled() else closing.exception()
        if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
            self._numbers.refuse(str(error))


def _properties() -> Basic.Properties:
    now = datetime.now(UTC)
    return Basic.Properties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        headers=stamp(now),
        message_id=uuid4().hex,
        timestamp=now,
        message_type=STATEMENT,
    )
