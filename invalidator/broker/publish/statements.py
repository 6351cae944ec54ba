"""A pika channel on which a publisher states which of its events are confirmed; open only where there is a log.

    open_on ─> is there an exchange of the log? ─┬─> no: events have no numbers
                                                 └─> yes: `number` each event, `state` about once a second

Until the broker has confirmed a statement, the next one says the same again.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pika
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from invalidator.broker.messages import PERSISTENT, STATEMENT, Statement
from invalidator.broker.publish.numbers import Numbers
from invalidator.broker.wire.number import NUMBER, in_text
from invalidator.broker.wire.timestamp import stamp

ACCESS_REFUSED = 403


class Statements:
    """The numbers and statements of one connection; a publisher's connections share its numbers."""

    def __init__(self, numbers: Numbers, exchange: str, *, changed: Callable[[], None]) -> None:
        """Call ``changed`` after each answer of the broker. ``exchange`` is that of the log."""
        self._numbers = numbers
        self._exchange = exchange
        self._changed = changed
        self._channel: Any = None
        #: True if there is a log, as far as it is known.
        self.is_there = False
        #: True once the broker has said if there is a log.
        self.is_known = False
        #: The statement that the broker has not confirmed yet.
        self._unconfirmed: Statement | None = None

    def open_on(self, connection: Any) -> None:
        """Open the channel on a connection that has just been opened."""
        connection.channel(on_open_callback=self._on_channel)

    def number(self, properties: pika.BasicProperties) -> int | None:
        """Add the next number to an event's properties and return it, None without a log; state what is due."""
        numbers = self._numbers
        if not self.is_there or numbers.is_refused:
            return None
        if numbers.is_due():
            self.state()
        number = numbers.take()
        if properties.headers is None:
            properties.headers = {}
        properties.headers[NUMBER] = in_text(numbers.epoch, number)
        return number

    def settled(self, number: int, *, is_void: bool) -> None:
        """Record what became of an event; see `Numbers.settled`."""
        self._numbers.settled(number, is_void=is_void)

    def state(self) -> None:
        """Send a statement if there is something to state."""
        is_free = self.is_there and self._channel.is_open and self._unconfirmed is None
        if is_free and (statement := self._numbers.statement()):
            self._unconfirmed = statement
            self._channel.basic_publish(self._exchange, "", msgspec.json.encode(statement), _properties())

    def is_settled(self) -> bool:
        """Return True once the broker has every statement, or can get none."""
        return self._unconfirmed is None or not self.is_there

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_closed)
        channel.confirm_delivery(self._on_confirm)
        channel.exchange_declare(self._exchange, passive=True, callback=self._on_there)

    def _on_there(self, _: Any) -> None:
        self.is_there = self.is_known = True
        self._changed()

    def _on_closed(self, _: Any, reason: BaseException) -> None:
        if isinstance(reason, ChannelClosedByBroker) and reason.reply_code == ACCESS_REFUSED:
            self._numbers.refuse(reason.reply_text)
        self.is_there, self.is_known = False, True
        self._changed()

    def _on_confirm(self, frame: Any) -> None:
        if self._unconfirmed and isinstance(frame.method, Basic.Ack):
            self._numbers.stored(self._unconfirmed)
        self._unconfirmed = None
        self._changed()


def _properties() -> pika.BasicProperties:
    now = datetime.now(UTC)
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        headers=stamp(now),
        message_id=uuid4().hex,
        timestamp=int(now.timestamp()),
        type=STATEMENT,
    )
