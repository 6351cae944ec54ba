"""Publishing events by hand: confirmed and mandatory, many in flight, with a count of those confirmed.

    messages ─> at most `rate` a second ─> thousands in flight (see `PipelinedPublisher`) ─> confirmed, counted

The first failure stops the reading. The messages in flight are still waited for, so that the count is true.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Protocol, TypeVar

from invalidator.app.publish.message import Message
from invalidator.broker.address import connection_name
from invalidator.broker.publish.confirms import properties_of
from invalidator.broker.publish.pipelined_publisher import PipelinedPublisher
from invalidator.errors import InvalidatorError, UnconfirmedError, UnroutableError
from invalidator.events.event import EVICT, decode
from invalidator.settings import Settings

#: Messages read before there is room for them in flight.
AHEAD = 1000
APP_ID = "invalidator"

_T = TypeVar("_T")


def message_of(body: bytes, *, limit: int) -> Message:
    """Return the body of an event as a message.

    Raises:
        PoisonError: no worker could read the body, or it is over ``limit`` bytes.
    """
    return Message(type=decode(body, limit=limit).type, body=body, app_id=APP_ID)


class Receiving(Protocol):
    """The receiver of receipts: `invalidator.operate.receipt_inbox.Inbox`."""

    def open(self, channel: Any) -> None: ...
    def ask(self, properties: Any) -> None: ...
    async def wait(self) -> None: ...


class TypesWithoutRule:
    """Reports event types that no rule of this configuration is on, each once, before they are published."""

    def __init__(self, settings: Settings, report: Callable[[str], None]) -> None:
        self._known = {EVICT, *(rule.on for rule in settings.rule)}
        self._reported: set[str] = set()
        self._report = report

    def check(self, type: str) -> None:
        if type not in self._known | self._reported:
            self._reported.add(type)
            nearest = get_close_matches(type, self._known, n=1)
            hint = f', did you mean "{nearest[0]}"?' if nearest else "."
            self._report(f'no rule is on "{type}"{hint} Workers with these rules evict nothing for it.')

    def checked(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield the same messages, each after its type was checked."""
        for message in messages:
            self.check(message.type)
            yield message


async def publish(
    settings: Settings,
    messages: Iterable[Message],
    *,
    rate: float | None = None,
    confirmed: Callable[[int], None],
    inbox: Receiving | None = None,
) -> None:
    """Publish to the fanout exchange, at most ``rate`` events a second, and wait for the inbox's receipts.

    ``messages`` is read in a thread, so it may block. ``confirmed`` is called with the number of new confirmations.

    Raises:
        PoisonError: reading ``messages`` raised it; the events before it are published.
        UnroutableError: no queue is bound to the exchange, or only the log.
        UnconfirmedError: the broker did not confirm in time; the text names the alarm, if it is known.
        UnreachableError, RefusedError: no broker answers, or the broker refuses this user.
    """
    publisher = _publisher(settings, confirmed)
    try:
        channel = await publisher.open()
        if publisher.has_log or settings.event_log.enabled:
            from invalidator.operate.bound import assert_a_cluster_is_bound  # noqa: PLC0415  loads another client

            await assert_a_cluster_is_bound(settings)
        if inbox:
            inbox.open(channel)
        await _publish(paced(_from_thread(messages), rate), publisher, inbox)
        if inbox:
            await inbox.wait()
    except InvalidatorError as error:
        raise await _explained(error, settings) from error
    finally:
        await publisher.close()


def _publisher(settings: Settings, confirmed: Callable[[int], None] = lambda _: None) -> PipelinedPublisher[None]:
    name = connection_name("publish", settings.cluster)
    return PipelinedPublisher(settings.broker, name=name, confirmed=confirmed)


async def _publish(
    messages: AsyncIterator[Message], publisher: PipelinedPublisher[None], inbox: Receiving | None
) -> None:
    try:
        async for message in messages:
            # Its age counts from now: a message may have waited for its turn.
            properties = properties_of(message.properties(time=datetime.now(UTC)))
            if inbox:
                inbox.ask(properties)
            await publisher.publish(message.body, properties)
    finally:
        await publisher.flush()


async def _explained(error: InvalidatorError, settings: Settings) -> InvalidatorError:
    """Return the error with its fix, or with the alarms that caused it."""
    if isinstance(error, UnroutableError):
        return UnroutableError(f"{error}; start a worker, or: invalidator topology declare")
    if not isinstance(error, UnconfirmedError):
        return error
    another = _publisher(settings)
    try:
        # In an alarm a broker still takes connections. One that takes none has another problem.
        await another.open()
    except InvalidatorError as unreachable:
        return unreachable
    finally:
        await another.close()
    from invalidator.operate.management import alarms_in_words  # noqa: PLC0415  loads an HTTP client

    return UnconfirmedError(f"{error}; {await alarms_in_words(settings)}")


async def paced(messages: AsyncIterator[_T], rate: float | None) -> AsyncIterator[_T]:
    """Yield the same messages, at most ``rate`` a second."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    async for message in messages:
        if rate:
            await asyncio.sleep(due - loop.time())
            due = max(due + 1 / rate, loop.time() - 1)  # after a stall, catch up on one second at most
        yield message


async def _from_thread(source: Iterable[_T]) -> AsyncIterator[_T]:
    """Iterate over a source that may block, such as a pipe, without holding up heartbeats and confirmations."""
    loop = asyncio.get_running_loop()
    ready: deque[_T | Exception | None] = deque()
    room, wakeup, is_awake = threading.Semaphore(AHEAD), asyncio.Event(), threading.Event()

    def put(item: _T | Exception | None) -> None:
        room.acquire()
        ready.append(item)
        if not is_awake.is_set():  # one wakeup is enough for any number of items
            is_awake.set()
            with suppress(RuntimeError):  # the loop is closed, so nothing is read any more
                loop.call_soon_threadsafe(wakeup.set)

    # A daemon, so that Ctrl-C does not wait for another line.
    threading.Thread(target=_read, args=(source, put), name="reader", daemon=True).start()
    while True:
        await wakeup.wait()
        wakeup.clear()
        is_awake.clear()  # before taking items: those that come from now on cause another wakeup
        while ready:
            room.release()
            item = ready.popleft()
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item


def _read(source: Iterable[_T], put: Callable[[_T | Exception | None], None]) -> None:
    """Put every item, then None, or the error that ended the source."""
    try:
        for item in source:
            put(item)
    except Exception as error:  # noqa: BLE001  raised again by the reader of the queue
        put(error)
    else:
        put(None)
