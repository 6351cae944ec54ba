"""A pika channel in confirm mode, as two publishers use it: one blocking, one with many messages in flight.

    open ─> is_ready ─> publish ─> acked, singly or up to a tag ─> is_settled
                           └─────> returned, nacked, channel or connection lost ─> failure

Rules of this file:

1. A message is confirmed when the broker acks it. The broker also acks a message it returned, after the return, so an
   ack of a returned message confirms nothing.
2. Items leave in the order of publishing, and only behind confirmed ones. So after a failure the publisher can publish
   again from the first unconfirmed message on, and subscribers end with the last event of each entity.
3. The first failure counts. A channel that is closed says why, and its connection may be closed after it.
4. Where there is a log, each message has a number. One that the broker acked is confirmed, and any other ends as void.
"""

from collections import deque
from collections.abc import Callable, Mapping
from itertools import takewhile
from math import inf
from typing import Any, Generic, TypeVar

import pika
from pika.exceptions import ChannelClosedByBroker
from pika.spec import Basic

from invalidator.broker.errors import (
    did_not_confirm,
    is_in_an_alarm,
    may_have_gone_out,
    no_queue_is_bound,
    refuses_publishing,
    would_not_store,
)
from invalidator.broker.publish.opening import in_our_words, in_words
from invalidator.broker.publish.statements import Statements
from invalidator.errors import InvalidatorError, UnreachableError

T = TypeVar("T")

#: The limits of messages in flight. A publisher that has reached one goes on once a quarter of it is confirmed.
IN_FLIGHT = 2000
IN_FLIGHT_BYTES = 16 * 1024 * 1024


class Confirms(Generic[T]):
    """A connection's confirming channel, the messages in flight on it, and the first failure.

    A message may be published with an item, which `take_confirmed` and `left` then return.
    """

    def __init__(
        self,
        exchange: str,
        *,
        changed: Callable[[], None],
        confirmed: Callable[[int], None],
        statements: Statements,
    ) -> None:
        """Call ``changed`` after each report of the broker, ``confirmed`` with the number of messages it has stored."""
        self.exchange = exchange
        self.channel: Any = None
        self._is_confirming = False
        #: Numbers the messages, if there is a log.
        self.statements = statements
        #: True while a resource alarm keeps the broker from reading this connection.
        self.is_blocked = False
        self.failure: InvalidatorError | None = None
        #: Message id, bytes and number by delivery tag, in the order of publishing.
        self.unconfirmed: dict[int, tuple[str, int, int | None]] = {}
        self._bytes = 0
        #: Delivery tags of messages that were returned or nacked.
        self._failed: set[int] = set()
        #: Tags and items that `take_confirmed` has not returned yet.
        self._sent: deque[tuple[int, T]] = deque()
        self._last_tag = self._settled_count = 0
        self._changed = changed
        self._confirmed = confirmed

    def open_on(self, connection: Any) -> None:
        """Open the channel on a connection that has just been opened."""
        connection.add_on_connection_blocked_callback(lambda *_: self._block(True))
        connection.add_on_connection_unblocked_callback(lambda *_: self._block(False))
        connection.channel(on_open_callback=self._on_channel)
        self.statements.open_on(connection)

    @property
    def is_ready(self) -> bool:
        """True once messages can be published, numbered if there is a log."""
        return self._is_confirming and self.statements.is_known

    def publish(self, body: bytes, properties: pika.BasicProperties, item: T | None = None) -> None:
        """Write a message. Its `message_id` must be there, and no other message in flight may share it."""
        self._last_tag = tag = self._last_tag + 1
        self.unconfirmed[tag] = properties.message_id, len(body), self.statements.number(properties)
        self._bytes += len(body)
        if item is not None:
            self._sent.append((tag, item))
        self.channel.basic_publish(self.exchange, "", body, properties, mandatory=True)

    @property
    def confirmed_through(self) -> int:
        """The number of messages before the first that is not settled yet."""
        return next(iter(self.unconfirmed), self._last_tag + 1) - 1

    def take_confirmed(self) -> list[T]:
        """Return items in the order of publishing, up to the first message that is not confirmed, each item once."""
        first, sent = self._first_open(), self._sent
        taken = []
        while sent and sent[0][0] < first:
            taken.append(sent.popleft()[1])
        return taken

    def has_confirmed(self) -> bool:
        """Return True if `take_confirmed` would return an item."""
        return bool(self._sent) and self._sent[0][0] < self._first_open()

    def progress(self) -> tuple[int, float]:
        """Return a value that stays the same as long as messages are in flight and the broker confirms none."""
        return self._settled_count, next(iter(self.unconfirmed), inf)

    def left(self) -> list[tuple[T, bool]]:
        """Return the items that `take_confirmed` cannot return, each with True if its own message is confirmed."""
        return [(item, tag not in self.unconfirmed and tag not in self._failed) for tag, item in self._sent]

    def forget(self) -> None:
        """Forget a failure that left the channel open, and the items of before."""
        self.failure = None
        self._failed.clear()
        self._sent.clear()

    def abandon(self) -> None:
        """Give up the messages in flight: nobody will learn that they are confirmed."""
        for _, _, number in self.unconfirmed.values():
            if number is not None:
                self.statements.settled(number, is_void=True)

    def is_open(self) -> bool:
        return bool(self.channel and self.channel.is_open)

    def is_full(self) -> bool:
        return len(self.unconfirmed) >= IN_FLIGHT or self._bytes >= IN_FLIGHT_BYTES

    def has_room(self) -> bool:
        """Return True once a full channel may be filled again, or no confirmation can come."""
        return (
            len(self.unconfirmed) <= IN_FLIGHT * 3 // 4 and self._bytes <= IN_FLIGHT_BYTES * 3 // 4
        ) or self._is_over()

    def is_settled(self) -> bool:
        """Return True once no message waits for a confirmation, or no confirmation can come."""
        return not self.unconfirmed or self._is_over()

    def overdue(self, seconds: float) -> InvalidatorError:
        """Return the error for a broker that has confirmed nothing for ``seconds``."""
        return is_in_an_alarm() if self.is_blocked else did_not_confirm(seconds, _doing(self.exchange))

    def fail(self, error: InvalidatorError) -> None:
        self.failure = self.failure or error
        self._changed()

    def on_lost(self, _: Any, reason: BaseException) -> None:
        """Fail: the connection or the channel is closed, or could not be opened. A callback of pika's."""
        self.fail(_publishing_failed(reason, self.exchange) if self.is_ready else in_our_words(reason))

    def on_confirm(self, frame: Any) -> None:
        """Take the broker's ack or nack. A callback of pika's."""
        is_nack = isinstance(frame.method, Basic.Nack)
        settled = self._settled(frame.method.delivery_tag, multiple=frame.method.multiple, is_nack=is_nack)
        if is_nack:
            self.fail(would_not_store())
            return
        self._confirmed(len(settled) - len(self._failed.intersection(settled)))
        self._changed()

    def on_return(self, _: Any, __: Any, properties: pika.BasicProperties, ___: bytes) -> None:
        """Take a message that no queue stored; its ack is still to come. A callback of pika's."""
        self._failed.update(tag for tag, (id, *_) in self.unconfirmed.items() if id == properties.message_id)
        self.fail(no_queue_is_bound(self.exchange))

    def _on_channel(self, channel: Any) -> None:
        self.channel = channel
        channel.add_on_close_callback(self.on_lost)
        channel.add_on_return_callback(self.on_return)
        channel.confirm_delivery(self.on_confirm, callback=self._on_ready)

    def _on_ready(self, _: Any) -> None:
        self._is_confirming = True
        self._changed()

    def _first_open(self) -> float:
        """Return the lowest delivery tag that is not confirmed."""
        return min(next(iter(self.unconfirmed), inf), min(self._failed, default=inf))

    def _is_over(self) -> bool:
        return self.failure is not None and not self.is_open()

    def _settled(self, tag: int, *, multiple: bool, is_nack: bool) -> list[int]:
        unconfirmed = self.unconfirmed
        if not multiple:
            settled = [tag] if tag in unconfirmed else []
        else:
            settled = list(takewhile(lambda sent: sent <= tag, unconfirmed))
        if is_nack:
            self._failed.update(settled)
        self._settled_count += len(settled)
        for sent in settled:
            _, size, number = unconfirmed.pop(sent)
            self._bytes -= size
            if number is not None:
                self.statements.settled(number, is_void=sent in self._failed)
        return settled

    def _block(self, is_blocked: bool) -> None:
        self.is_blocked = is_blocked


def properties_of(properties: Mapping[str, Any]) -> pika.BasicProperties:
    """Return AMQP properties, given by name, as pika takes them."""
    return pika.BasicProperties(**{**properties, "timestamp": int(properties["timestamp"].timestamp())})


def _publishing_failed(reason: BaseException, exchange: str) -> InvalidatorError:
    match reason:
        case ChannelClosedByBroker(reply_code=404):  # there is no such exchange
            return no_queue_is_bound(exchange)
        case ChannelClosedByBroker(reply_code=403, reply_text=text):
            return refuses_publishing(exchange, text)
    return may_have_gone_out(UnreachableError(f"lost the broker while {_doing(exchange)}: {in_words(reason)}"))


def _doing(exchange: str) -> str:
    return f'publishing to "{exchange}"'
