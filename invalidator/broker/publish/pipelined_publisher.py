"""Publishing many messages on one connection: confirmed and mandatory, thousands in flight, none awaited alone.

    publish ─> (room for it among IN_FLIGHT) ─> written ─> acked, singly or up to a tag ─> `confirmed(count)`

A confirmation that a task waits for costs aio-pika 100 µs of CPU. Counting it in pika's callback costs a fifth.

Rules of this file:

1. The first failure is raised and ends the publishing. The messages in flight are still waited for, so that the count
   is true.
2. The deadline is the broker's silence: `broker.publish_timeout` seconds with messages in flight and none confirmed.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.spec import Basic

from invalidator.broker.address import Attempts, urls
from invalidator.broker.errors import no_answer_in_time
from invalidator.broker.publish.confirms import Confirms
from invalidator.broker.publish.frames import AROUND, message_frames
from invalidator.broker.publish.numbers import STATEMENT_SECONDS, Numbers
from invalidator.broker.publish.opening import parameters
from invalidator.broker.publish.statements import Statements
from invalidator.broker.quiet import Ours, quiet
from invalidator.errors import InvalidatorError
from invalidator.settings import BrokerSettings, BrokerUrl

T = TypeVar("T")

#: Bytes that are written before the turn of the loop ends, so that the broker has something to do.
WRITE_BYTES = 64 * 1024
#: Seconds that closing may take.
CLOSE_SECONDS = 2.0


class OneWriteConnection(AsyncioConnection):  # type: ignore[misc]  # pika has no types
    """A connection that writes the frames of one turn of the loop at once; pika makes a system call for each.

    It also encodes messages by itself (`frames`), unless one needs several frames of body, or none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        super().__init__(*args, **kwargs)

    def _send_message(
        self, channel_number: int, method_frame: Basic.Publish, content: tuple[pika.BasicProperties, bytes]
    ) -> None:
        properties, body = content
        if 0 < len(body) <= self.params.frame_max - AROUND:
            self._output_marshaled_frames([message_frames(channel_number, method_frame, properties, body)])
        else:
            super()._send_message(channel_number, method_frame, content)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write)
        self._unwritten += marshaled_frames
        self._unwritten_bytes += sum(map(len, marshaled_frames))
        if self._unwritten_bytes >= WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        frames, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        if frames and self._transport:  # else the connection was lost meanwhile, and so are the frames
            super()._output_marshaled_frames([b"".join(frames)])


class PipelinedPublisher(Generic[T]):
    """One connection to publish on; ``confirmed`` is called with the number of messages newly stored by the broker.

    A message may be published with an item, which `take_confirmed` and `left` then return.
    """

    def __init__(self, broker: BrokerSettings, *, name: str, confirmed: Callable[[int], None]) -> None:
        self._broker = broker
        self._name = name
        self._confirmed = confirmed
        self._numbers = Numbers(name)
        self._stating: asyncio.TimerHandle | None = None
        self._connection: AsyncioConnection | None = None
        self._confirms = self._new_confirms()
        self._closed: asyncio.Future[None]
        #: Conditions that tasks wait for.
        self._awaited: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def open(self) -> Any:
        """Connect to the first broker address that answers, and return pika's channel.

        Raises:
            RefusedError: a broker refuses the user, the password or the vhost.
            UnreachableError: no broker answers.
        """
        attempts = Attempts()
        for url in urls(self._broker):
            with attempts.at(url):
                return await self._open(url)
        raise attempts.failure()

    async def publish(self, body: bytes, properties: pika.BasicProperties, item: T | None = None) -> None:
        """Send to the exchange of the settings, as soon as there is room.

        Raises:
            UnroutableError, UnconfirmedError, RefusedError: an earlier message failed; nothing more is sent.
        """
        await self.room()
        self.write(body, properties, item)

    async def room(self) -> None:
        """Wait until `write` may be called; raises as `publish`."""
        if self._confirms.is_full():
            await self._settle(self._confirms.has_room)
        if self._confirms.failure:
            raise self._confirms.failure

    def write(self, body: bytes, properties: pika.BasicProperties, item: T | None = None) -> None:
        """Send a message, directly after `room` has returned."""
        with Ours():  # pika registers a callback for the socket here
            self._confirms.publish(body, properties, item)

    @property
    def has_log(self) -> bool:
        """True if the broker has a log, once the publisher is open: then no message comes back as unroutable."""
        return self._confirms.statements.is_there

    @property
    def failure(self) -> InvalidatorError | None:
        """The first failure, which ended the publishing; that of a lost connection too."""
        return self._confirms.failure

    @property
    def confirmed_through(self) -> int:
        """The number of messages confirmed without a gap, from the first one on, as long as there is no failure."""
        return self._confirms.confirmed_through

    async def flush(self) -> None:
        """Wait until every message is confirmed; raises as `publish`."""
        await self._settle(self._confirms.is_settled)
        if self._confirms.failure:
            raise self._confirms.failure

    async def next_confirmed(self) -> list[T]:
        """Wait for confirmed messages; return their items, in the order of publishing, each once.

        Raises:
            UnroutableError, UnconfirmedError, RefusedError: a message failed, and those before it have been returned.
        """
        confirms = self._confirms
        await self._settle(lambda: confirms.has_confirmed() or confirms.failure is not None)
        if items := confirms.take_confirmed():
            return items
        assert confirms.failure
        raise confirms.failure

    def take_confirmed(self) -> list[T]:
        """Return items in the order of publishing, up to the first message that is not confirmed, each item once."""
        return self._confirms.take_confirmed()

    def left(self) -> list[tuple[T, bool]]:
        """Return the items from the first unconfirmed message on, with True for the confirmed."""
        return self._confirms.left()

    async def close(self) -> None:
        """Close the connection, waiting only briefly for the broker; never raises."""
        if self._stating:
            self._stating.cancel()
        if self._connection and self._connection.is_open:
            with quiet():
                self._confirms.abandon()
                self._confirms.statements.state()
                self._connection.close()
            await asyncio.wait([self._closed], timeout=CLOSE_SECONDS)

    async def _open(self, url: BrokerUrl) -> Any:
        self._confirms = confirms = self._new_confirms()
        self._closed = closed = asyncio.get_running_loop().create_future()

        def on_closed(connection: Any, reason: BaseException) -> None:
            confirms.on_lost(connection, reason)
            closed.set_result(None)

        within = self._broker.connect_timeout
        with quiet():
            self._connection = OneWriteConnection(
                parameters(self._broker, url, self._name, within=within),
                on_open_callback=confirms.open_on,
                on_open_error_callback=confirms.on_lost,
                on_close_callback=on_closed,
            )
        try:
            async with asyncio.timeout(within):
                await self._until(lambda: confirms.is_ready or confirms.failure is not None)
        except TimeoutError as error:
            raise no_answer_in_time() from error
        if not confirms.is_ready:
            assert confirms.failure
            raise confirms.failure
        self._state_later()
        return confirms.channel

    def _new_confirms(self) -> Confirms[T]:
        statements = Statements(self._numbers, self._broker.log, changed=self._on_change)
        return Confirms(
            self._broker.exchange, changed=self._on_change, confirmed=self._confirmed, statements=statements
        )

    def _state_later(self) -> None:
        """State once a second what is confirmed, as long as the connection is open."""
        if self._confirms.failure is None:
            with Ours():
                self._confirms.statements.state()
            self._stating = asyncio.get_running_loop().call_later(STATEMENT_SECONDS, self._state_later)

    async def _settle(self, is_due: Callable[[], bool]) -> None:
        """Wait until `is_due`, as long as the broker confirms something. A failure alone does not end this."""
        confirms, within = self._confirms, self._broker.publish_timeout
        while not is_due():
            before = confirms.progress()
            try:
                async with asyncio.timeout(within):
                    await self._until(is_due)
            except TimeoutError:
                if confirms.unconfirmed and confirms.progress() == before:
                    confirms.fail(confirms.overdue(within))
                    return

    async def _until(self, is_due: Callable[[], bool]) -> None:
        if not is_due():
            waiter = is_due, asyncio.get_running_loop().create_future()
            self._awaited.append(waiter)
            try:
                await waiter[1]
            finally:
                self._awaited.remove(waiter)

    def _on_change(self) -> None:
        for is_due, waiter in self._awaited:
            if not waiter.done() and is_due():  # a task is woken once, not for every ack
                waiter.set_result(None)
