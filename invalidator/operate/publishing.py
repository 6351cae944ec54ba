"""Publishing events by hand: confirmed and mandatory, many in flight, with an account of what was confirmed.

    messages ─> at most `rate` a second ─> at most OUTSTANDING in flight ─> confirmed, counted one by one

The first failure stops the reading; what is in flight then is still waited for, so that the account is true.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from msgspec import Struct

from invalidator.broker.address import connection_name
from invalidator.broker.age import stamp
from invalidator.broker.connection import close, connect
from invalidator.broker.publisher import Properties, Publisher
from invalidator.errors import InvalidatorError, UnconfirmedError, UnreachableError, UnroutableError
from invalidator.events import decode, encode
from invalidator.operate.management import alarms_in_words
from invalidator.operate.receipts import Inbox
from invalidator.settings import Settings

#: Publishes without a confirmation yet.
OUTSTANDING = 200
#: Messages read before there is room for them in flight.
AHEAD = 1000
#: Bytes that AMQP allows the property `type`; a longer type stands in the body alone.
SHORT_STRING = 255
APP_ID = "invalidator"

_T = TypeVar("_T")


class Message(Struct, frozen=True):
    """One event, ready to be published."""

    type: str
    body: bytes


def message(type: str, fields: Mapping[str, Any], *, limit: int) -> Message:
    """An event as a message.

    Raises:
        PoisonError: no worker could read it, or its body is over ``limit`` bytes.
    """
    return message_of(encode(type, fields), limit=limit)


def message_of(body: bytes, *, limit: int) -> Message:
    """A body that somebody else wrote, as a message; raises as `message`."""
    return Message(decode(body, limit=limit).type, body)


async def publish(
    settings: Settings,
    messages: Iterable[Message],
    *,
    rate: float | None = None,
    confirmed: Callable[[], None],
    inbox: Inbox | None = None,
) -> None:
    """Publish to the fanout exchange, at most ``rate`` events a second; ``confirmed`` is called once for each.

    ``messages`` may block: it is read in a thread of its own. With an inbox, its receipts are waited for.

    Raises:
        PoisonError: reading ``messages`` raised it; those before it are published.
        UnroutableError: no queue is bound to the exchange.
        UnconfirmedError: the broker did not confirm in time; the message names the alarm, if it is known.
        UnreachableError, RefusedError: there is no broker, or it says no.
    """
    publishing = _Publishing(settings, confirmed, inbox)
    try:
        await publishing.run(paced(_from_thread(messages), rate))
        if inbox:
            await inbox.wait()
    finally:
        await publishing.close()


class _Publishing:
    """What is in flight, and what went wrong."""

    def __init__(self, settings: Settings, confirmed: Callable[[], None], inbox: Inbox | None) -> None:
        self._settings = settings
        self._confirmed = confirmed
        self._inbox = inbox
        name = connection_name("publish", settings.cluster)
        self._publisher = Publisher(lambda: settings.broker, name=name, prepare=inbox.open if inbox else None)
        self._room = asyncio.Semaphore(OUTSTANDING)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._errors: list[InvalidatorError] = []

    async def run(self, messages: AsyncIterator[Message]) -> None:
        self._sending = asyncio.create_task(self._send_all(messages))
        await asyncio.wait({self._sending})
        await asyncio.gather(*self._in_flight)
        if self._errors:
            raise await self._explained(most_telling(self._errors))
        self._sending.result()

    async def close(self) -> None:
        await self._publisher.close()

    async def _send_all(self, messages: AsyncIterator[Message]) -> None:
        async for message in messages:
            await self._room.acquire()
            task = asyncio.create_task(self._send(message))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _send(self, message: Message) -> None:
        fits = len(message.type.encode()) <= SHORT_STRING
        now = datetime.now(UTC)
        properties = Properties(
            content_type="application/json",
            message_type=message.type if fits else None,
            timestamp=now,
            headers=stamp(now),
            app_id=APP_ID,
        )
        if self._inbox:
            self._inbox.ask(properties)
        exchange = self._settings.broker.exchange
        try:
            await self._publisher.publish(message.body, exchange=exchange, routing_key="", properties=properties)
        except InvalidatorError as error:
            self._errors.append(error)
            self._sending.cancel()
        else:
            self._confirmed()
        finally:
            self._room.release()

    async def _explained(self, error: InvalidatorError) -> InvalidatorError:
        """The error, with what else can be found out."""
        if isinstance(error, UnroutableError):
            return UnroutableError(f"{error}; start a worker, or: invalidator topology declare")
        if not isinstance(error, UnconfirmedError):
            return error
        try:
            # In an alarm a broker still takes connections; one that takes none is something else.
            await close(await connect(self._settings.broker, name=connection_name("publish", self._settings.cluster)))
        except InvalidatorError as unreachable:
            return unreachable
        return UnconfirmedError(f"{error}; {await alarms_in_words(self._settings)}")


def most_telling(errors: Sequence[InvalidatorError]) -> InvalidatorError:
    """The error that the others follow from: whoever gives up first closes the connection under all others."""
    return next((error for error in errors if type(error) is not UnreachableError), errors[0])


async def paced(messages: AsyncIterator[_T], rate: float | None) -> AsyncIterator[_T]:
    """The same, at most ``rate`` a second."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    async for message in messages:
        if rate:
            await asyncio.sleep(due - loop.time())
            due = max(due + 1 / rate, loop.time() - 1)  # after a stall, catch up on one second and no more
        yield message


async def _from_thread(source: Iterable[_T]) -> AsyncIterator[_T]:
    """Iterate over what may block, such as a pipe, without holding up heartbeats and confirmations."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[tuple[_T | None, Exception | None]] = asyncio.Queue()
    room = threading.Semaphore(AHEAD)

    def put(item: _T | None, error: Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody wants it any more
            loop.call_soon_threadsafe(ready.put_nowait, (item, error))

    def read() -> None:
        try:
            for item in source:
                room.acquire()
                put(item, None)
        except Exception as error:  # noqa: BLE001  raised again below
            put(None, error)
        else:
            put(None, None)

    # A daemon, so that Ctrl-C does not wait for another line.
    threading.Thread(target=read, name="reader", daemon=True).start()
    while True:
        item, error = await ready.get()
        room.release()
        if error:
            raise error
        if item is None:
            return
        yield item
