"""Publishing many messages on one connection: confirmed and mandatory, thousands in flight, none awaited alone.

    publish ─> (room for it among OUTSTANDING) ─> written ─> acked, singly or up to a tag ─> `confirmed(count)`

A confirmation that a task waits for costs aio-pika 100 µs of CPU. Counting it in pika's callback costs a fifth.

Rules of this file:

1. The first failure is raised and ends the publishing. The messages in flight are still waited for, so that the count
   is true.
2. The deadline is the broker's silence: `broker.publish_timeout` seconds with messages in flight and none confirmed.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

from invalidator.broker.address import Attempts, urls
from invalidator.broker.errors import no_answer_in_time
from invalidator.broker.publish.confirms import Confirms, parameters
from invalidator.broker.quiet import quiet
from invalidator.errors import InvalidatorError
from invalidator.settings import BrokerSettings, BrokerUrl

#: The limit of messages in flight. A publisher that has reached it goes on once a quarter of them is confirmed.
OUTSTANDING = 2000
REFILL = OUTSTANDING * 3 // 4
#: Seconds that closing may take.
CLOSE_SECONDS = 2.0


class PipelinedPublisher:
    """One connection to publish on; ``confirmed`` is called with the number of messages newly stored by the broker."""

    def __init__(self, broker: BrokerSettings, *, name: str, confirmed: Callable[[int], None]) -> None:
        self._broker = broker
        self._name = name
        self._confirmed = confirmed
        self._connection: AsyncioConnection | None = None
        self._confirms = self._new_confirms()
        self._closed: asyncio.Future[None]
        #: The condition that is waited for, and the event that is set once it holds.
        self._is_due: Callable[[], bool] = lambda: False
        self._due = asyncio.Event()

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

    async def publish(self, body: bytes, properties: pika.BasicProperties) -> None:
        """Send to the exchange of the settings, as soon as there is room.

        Raises:
            UnroutableError, UnconfirmedError, RefusedError: an earlier message failed; nothing more is sent.
        """
        confirms = self._confirms
        if len(confirms.unconfirmed) >= OUTSTANDING:
            await self._settle(REFILL)
        if confirms.failure:
            raise confirms.failure
        confirms.publish(body, properties)

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
        await self._settle(0)
        if self._confirms.failure:
            raise self._confirms.failure

    async def close(self) -> None:
        """Close the connection, waiting only briefly for the broker; never raises."""
        if self._connection and self._connection.is_open:
            with quiet():
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
            self._connection = AsyncioConnection(
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
        return confirms.channel

    def _new_confirms(self) -> Confirms:
        return Confirms(self._broker.exchange, changed=self._on_change, confirmed=self._confirmed)

    async def _settle(self, left: int) -> None:
        """Wait until at most ``left`` messages are in flight. A failure ends this only if no confirmation can come."""
        confirms, within = self._confirms, self._broker.publish_timeout
        while not confirms.is_settled(left):
            before = len(confirms.unconfirmed)
            try:
                async with asyncio.timeout(within):
                    await self._until(lambda: confirms.is_settled(left))
            except TimeoutError:
                if len(confirms.unconfirmed) == before:
                    confirms.fail(confirms.overdue(within))
                    return

    async def _until(self, is_due: Callable[[], bool]) -> None:
        self._is_due = is_due
        while not is_due():
            self._due.clear()
            await self._due.wait()

    def _on_change(self) -> None:
        if self._is_due():  # a task is woken once, not for every ack
            self._due.set()
