"""Publishing events by hand: confirmed and mandatory, many in flight, with an account of what was confirmed.

    messages ─> at most `rate` a second ─> thousands in flight (see `Bulk`) ─> confirmed, counted

The first failure stops the reading; what is in flight then is still waited for, so that the account is true.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import pika
from msgspec import Struct

from invalidator.app.publish.message import PERSISTENT, SHORT_STRING
from invalidator.broker.address import connection_name
from invalidator.broker.connection import close, connect
from invalidator.broker.pipelined_publisher import Bulk
from invalidator.broker.timestamp import stamp
from invalidator.errors import InvalidatorError, UnconfirmedError, UnroutableError
from invalidator.events.event import decode, encode
from invalidator.operate.management import alarms_in_words
from invalidator.operate.receipt_inbox import Inbox
from invalidator.settings import Settings

#: Messages read before there is room for them in flight.
AHEAD = 1000
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
    confirmed: Callable[[int], None],
    inbox: Inbox | None = None,
) -> None:
    """Publish to the fanout exchange, at most ``rate`` events a second; ``confirmed`` is called with how many more are.

    ``messages`` may block: it is read in a thread of its own. With an inbox, its receipts are waited for.

    Raises:
        PoisonError: reading ``messages`` raised it; those before it are published.
        UnroutableError: no queue is bound to the exchange.
        UnconfirmedError: the broker did not confirm in time; the message names the alarm, if it is known.
        UnreachableError, RefusedError: there is no broker, or it says no.
    """
    bulk = Bulk(settings.broker, name=connection_name("publish", settings.cluster), confirmed=confirmed)
    try:
        await _publish(paced(_from_thread(messages), rate), bulk, inbox)
        if inbox:
            await inbox.wait()
    except InvalidatorError as error:
        raise await _explained(error, settings) from error
    finally:
        await bulk.close()


async def _publish(messages: AsyncIterator[Message], bulk: Bulk, inbox: Inbox | None) -> None:
    channel = await bulk.open()
    if inbox:
        inbox.open(channel)
    try:
        async for message in messages:
            properties = _properties(message)
            if inbox:
                inbox.ask(properties)
            await bulk.publish(message.body, properties)
    finally:
        await bulk.flush()


def _properties(message: Message) -> pika.BasicProperties:
    now = datetime.now(UTC)
    fits = len(message.type.encode()) <= SHORT_STRING  # else it stands in the body alone
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        message_id=uuid4().hex,
        timestamp=int(now.timestamp()),
        headers=stamp(now),
        type=message.type if fits else None,
        app_id=APP_ID,
    )


async def _explained(error: InvalidatorError, settings: Settings) -> InvalidatorError:
    """The error, with what else can be found out."""
    if isinstance(error, UnroutableError):
        return UnroutableError(f"{error}; start a worker, or: invalidator topology declare")
    if not isinstance(error, UnconfirmedError):
        return error
    try:
        # In an alarm a broker still takes connections; one that takes none is something else.
        await close(await connect(settings.broker, name=connection_name("publish", settings.cluster)))
    except InvalidatorError as unreachable:
        return unreachable
    return UnconfirmedError(f"{error}; {await alarms_in_words(settings)}")


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
    ready: deque[_T | Exception | None] = deque()
    room, news, is_told = threading.Semaphore(AHEAD), asyncio.Event(), threading.Event()

    def put(item: _T | Exception | None) -> None:
        room.acquire()
        ready.append(item)
        if not is_told.is_set():  # one word is enough, however much there is
            is_told.set()
            with suppress(RuntimeError):  # the loop is closed: nobody wants it any more
                loop.call_soon_threadsafe(news.set)

    # A daemon, so that Ctrl-C does not wait for another line.
    threading.Thread(target=_read, args=(source, put), name="reader", daemon=True).start()
    while True:
        await news.wait()
        news.clear()
        is_told.clear()  # before looking: what comes now is told again
        while ready:
            room.release()
            item = ready.popleft()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item


def _read(source: Iterable[_T], put: Callable[[_T | Exception | None], None]) -> None:
    """Hand over all there is, then None, or the error that ended it."""
    try:
        for item in source:
            put(item)
    except Exception as error:  # noqa: BLE001  raised again where it is taken
        put(error)
    else:
        put(None)
