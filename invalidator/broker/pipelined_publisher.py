"""Publishing very many messages on one connection: confirmed and mandatory, thousands in flight, none awaited alone.

    publish ─> (room for it among OUTSTANDING) ─> written ─> acked, singly or up to a tag ─> `confirmed(how many)`

A confirmation that a task waits for costs aio-pika 100 µs of CPU; counted in pika's callback it costs a fifth.

Rules of this file:

1. Confirmed is what the broker acked. It acks what it returned too, and says so before: a return ends it all.
2. The first failure is the one that is told, and ends the publishing; what is in flight then is still waited for, so
   that the count is true.
3. The deadline is the broker's silence: so many seconds with something to confirm and nothing confirmed.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic
from yarl import URL

from invalidator.broker.address import urls
from invalidator.broker.blocking_publisher import in_words, parameters
from invalidator.errors import InvalidatorError, RefusedError, UnconfirmedError, UnreachableError, UnroutableError
from invalidator.settings import BrokerSettings

#: Messages that the broker has not confirmed yet; once there are so many, publishing goes on when a quarter is.
OUTSTANDING = 2000
REFILL = OUTSTANDING * 3 // 4
#: Seconds that a good-bye may take.
CLOSE_SECONDS = 2.0


class Bulk:
    """One connection to publish on; ``confirmed`` is called with how many more messages the broker has stored."""

    def __init__(self, broker: BrokerSettings, *, name: str, confirmed: Callable[[int], None]) -> None:
        self._broker = broker
        self._name = name
        self._confirmed = confirmed
        self._connection: AsyncioConnection | None = None
        self._channel: Any = None
        self._closed: asyncio.Future[None]
        self._last_tag = 0
        #: Tags in the order of publishing, as the keys of a dictionary.
        self._unconfirmed: dict[int, None] = {}
        self._failure: InvalidatorError | None = None
        #: Set when there is room, or when something failed.
        self._news = asyncio.Event()

    async def open(self) -> Any:
        """Connect to the first broker address that answers; returns pika's channel.

        Raises:
            RefusedError: a broker answered and said no (user, password, vhost).
            UnreachableError: none answered.
        """
        failures = []
        for url in urls(self._broker):
            try:
                return await self._open(url)
            except UnreachableError as error:
                failures.append(f"{url.host}:{url.port}: {error}")
            except RefusedError as error:
                raise RefusedError(f'{url.host}:{url.port} refuses user "{url.user}": {error}') from error
        raise UnreachableError(f"no broker answers: {'; '.join(failures)}")

    async def publish(self, body: bytes, properties: pika.BasicProperties) -> None:
        """Send to the exchange of the settings, as soon as there is room.

        Raises:
            UnroutableError, UnconfirmedError, RefusedError: of an earlier message; nothing more is sent.
        """
        if len(self._unconfirmed) >= OUTSTANDING:
            await self._until(REFILL)
        if self._failure:
            raise self._failure
        self._last_tag += 1
        self._unconfirmed[self._last_tag] = None
        self._channel.basic_publish(self._broker.exchange, "", body, properties, mandatory=True)

    async def flush(self) -> None:
        """Wait until everything is confirmed; raises as `publish`."""
        await self._until(0)
        if self._failure:
            raise self._failure

    async def close(self) -> None:
        """Say good-bye, but not for long; never raises."""
        if self._connection and self._connection.is_open:
            self._connection.close()
            await asyncio.wait([self._closed], timeout=CLOSE_SECONDS)

    async def _open(self, url: URL) -> Any:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def fail(_: Any, reason: BaseException) -> None:
            if not opened.done():
                opened.set_exception(in_words(reason))
            self._fail(_meaning(reason, self._broker.exchange))

        def closed(connection: Any, reason: BaseException) -> None:
            fail(connection, reason)
            self._closed.set_result(None)

        def ready(_: Any) -> None:
            if not opened.done():
                opened.set_result(self._channel)

        def on_channel(channel: Any) -> None:
            self._channel = channel
            channel.add_on_close_callback(fail)
            channel.add_on_return_callback(self._on_return)
            channel.confirm_delivery(self._on_confirm, callback=ready)

        self._failure = None
        self._closed = asyncio.get_running_loop().create_future()
        within = self._broker.connect_timeout
        self._connection = AsyncioConnection(
            parameters(self._broker, url, self._name, within=within),
            on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
            on_open_error_callback=fail,
            on_close_callback=closed,
        )
        try:
            async with asyncio.timeout(within):
                return await opened
        except TimeoutError as error:
            raise UnreachableError("no answer in time") from error

    async def _until(self, left: int) -> None:
        """Wait until so few are unconfirmed. After a failure too, as long as there is a channel to confirm them on."""
        within = self._broker.publish_timeout
        while (before := len(self._unconfirmed)) > left and not (self._failure and self._is_lost()):
            self._news.clear()
            try:
                async with asyncio.timeout(within):
                    await self._news.wait()
            except TimeoutError:
                if len(self._unconfirmed) == before:
                    self._fail(UnconfirmedError(f"the broker did not confirm within {within:g} s"))
                    return

    def _is_lost(self) -> bool:
        return not (self._channel and self._channel.is_open)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag, unconfirmed = method.delivery_tag, self._unconfirmed
        before = len(unconfirmed)
        if method.multiple:
            while unconfirmed and (first := next(iter(unconfirmed))) <= tag:
                del unconfirmed[first]
        else:
            unconfirmed.pop(tag, None)
        if isinstance(method, Basic.Nack):
            self._fail(UnconfirmedError("the broker would not store a message (a full queue, one without a leader?)"))
        elif not isinstance(self._failure, UnroutableError):
            self._confirmed(before - len(unconfirmed))
        if len(unconfirmed) <= REFILL:
            self._news.set()

    def _on_return(self, *_: Any) -> None:
        self._fail(_unroutable(self._broker.exchange))

    def _fail(self, error: InvalidatorError) -> None:
        # The first word counts: a channel that is closed says why, and its connection may be closed after it.
        self._failure = self._failure or error
        self._news.set()


def _meaning(reason: BaseException, exchange: str) -> InvalidatorError:
    match reason:
        case ChannelClosedByBroker(reply_code=404):
            return _unroutable(exchange)
        case ChannelClosedByBroker(reply_code=403, reply_text=text):
            return RefusedError(f'the broker refuses publishing to "{exchange}": {text}; see set_permissions')
    return UnconfirmedError(f"lost the broker while publishing: {in_words(reason)}")


def _unroutable(exchange: str) -> UnroutableError:
    return UnroutableError(f'no queue is bound to the exchange "{exchange}": nothing stored the message')
