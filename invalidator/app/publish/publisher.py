"""Publishing from threads and scripts, Flask and Django, in the caller's own thread, without an event loop.

    publish ─> take the connection used last, or make one ─> write, wait for the confirmation ─> put it back

Rules of this file:

1. A connection belongs to one publish at a time. There are as many connections as publishes ever ran at once.
2. A forked process forgets its parent's connections without closing them, because the sockets are the parent's too.
3. A connection that was idle for long is replaced. The broker gives it up after a while without heartbeats, and a
   firewall between may have dropped it in silence.
4. A connection that turns out dead is replaced once, and the same event published again. A repetition does no harm.
5. If the broker has a log, events are numbered, and a forked process begins at 1 under another epoch. Only then a
   thread waits for each pause, to state on an idle connection what was confirmed last.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import pika

from invalidator.app.publish.many import Many
from invalidator.app.publish.message import Message, broker_settings, message
from invalidator.app.publish.pauses import Pauses
from invalidator.app.publish.retry import Retry, waiting_until
from invalidator.broker.address import connection_name
from invalidator.broker.messages import Receipt
from invalidator.broker.publish.blocking_publisher import BlockingPublisher, connect
from invalidator.broker.publish.confirms import properties_of
from invalidator.broker.publish.numbers import Numbers
from invalidator.errors import InvalidatorError, UnroutableError
from invalidator.events.event import Event
from invalidator.settings import BrokerSettings

#: Seconds after which an idle connection is replaced: fewer than the broker waits for a heartbeat.
IDLE_SECONDS = 50.0


def _with_properties(many: Many) -> Iterator[tuple[bytes, pika.BasicProperties, tuple[int, Message]]]:
    return ((message.body, properties_of(message.properties()), (position, message)) for position, message in many)


class Publisher:
    """Publishes events, confirmed, for any number of threads; connects when first needed, and again after a fork.

    ::

        publisher = Publisher("amqp://shop@rabbitmq.internal/", app_id="shop")
        publisher.publish("product_updated", {"id": "abc-123", "price": 109.99})  # after the commit

    `broker` is a URL, or settings where more than the URL differs (other broker nodes, another exchange). `timeout` is
    the number of seconds that a publish may take in all, connecting and a second try included. `cluster` is the one
    that this application reads from, for ``wait``.
    """

    def __init__(
        self, broker: str | BrokerSettings, *, app_id: str = "", timeout: float = 1.0, cluster: str = ""
    ) -> None:
        self._broker = broker_settings(broker)
        self._app_id = app_id
        self._cluster = cluster
        self._timeout = timeout
        self._begin()

    def publish(self, event_type: str, data: Mapping[str, Any], *, wait: float | None = None) -> Receipt | None:
        """Return once the broker has stored the event for every cluster.

        With ``wait``, return once this `cluster` has evicted it too, so that the caller's next read sees its own write.
        The receipt names the nodes that did not answer. None means that no receipt came within ``wait`` seconds of the
        call; the event is evicted all the same.

        Raises:
            ConfigurationError: ``wait`` without a `cluster`.
            UnconfirmedError: the event may have gone out; publish it again, which does no harm.
            UnroutableError: the event did not go out, because no cluster's queue is bound to the exchange. Not
                where there is a log of events: it stores the event, and a cluster that is bound again heals from it.
            UnreachableError, RefusedError: it did not go out, because no broker answers, or the broker refuses it.
            PoisonError: it did not go out, because no worker could read it.
        """
        return self.send(message(event_type, data, app_id=self._app_id), wait=wait)

    def send(self, message: Message, *, wait: float | None = None) -> Receipt | None:
        """Publish a message made before; returns and raises as `publish`."""
        retry, waiting = Retry(self._timeout), waiting_until(wait, self._cluster, now=time.monotonic())
        connection = self._take()
        while True:
            try:
                return self._send(connection or self._connect(retry), message, retry, waiting)
            except InvalidatorError as error:
                retry.failed(error)
                connection = None

    def publish_many(self, events: Iterable[Event]) -> int:
        """Publish events in order, thousands in flight, and return their number once all of them are confirmed.

        ``events`` may be a generator; memory is bounded. `timeout` is the number of seconds that the broker may take
        to confirm anything at all. After a failure the events are sent again once, from the first unconfirmed one on.

        Raises:
            IncompleteError: not all of them were confirmed; it names the positions.
        """
        many, connection = Many(events, app_id=self._app_id), self._take()
        while True:
            try:
                connection = connection or self._connect(Retry(self._timeout))
                for _ in connection.publish_many(_with_properties(many), within=self._timeout):
                    many.progressed()
            except InvalidatorError as error:
                left = connection.left() if connection else []
                if connection:
                    connection.drop()
                connection = None
                many.failed(error, left)
            except BaseException:
                if connection:
                    connection.drop()
                raise
            else:
                self._put_back(connection)
                self._pauses.published()
                return many.sent()

    def close(self) -> None:
        """State what is confirmed, and close the idle connections. Publishing again connects again."""
        self._begin_in_child()
        with self._stating:
            while self._idle and (connection := self._take()):
                connection.close()

    def _begin(self) -> None:
        """Begin without connections, at the first number; in a forked process, too."""
        self._pid = os.getpid()
        #: Connections that no publish uses, each with the time it was used last. Appending and popping need no lock.
        self._idle: list[tuple[float, BlockingPublisher]] = []
        self._name = connection_name("publisher", self._app_id)
        self._numbers = Numbers(self._name)
        self._pauses = Pauses(self._numbers, self._state)
        #: Held while the thread of `Pauses` has a connection: `close` waits until it is back.
        self._stating = threading.Lock()

    def _begin_in_child(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    def _state(self) -> bool:
        with self._stating:
            if (connection := self._take()) is None:
                return False
            can_state = connection.state()
            self._put_back(connection)
            return can_state

    def _take(self) -> BlockingPublisher | None:
        """Take the idle connection used last, if one can be trusted."""
        self._begin_in_child()
        while self._idle:
            try:
                used, connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if time.monotonic() - used < IDLE_SECONDS and connection.is_open():
                return connection
            connection.close()
        return None

    def _connect(self, retry: Retry) -> BlockingPublisher:
        return connect(self._broker, name=self._name, within=retry.left, numbers=self._numbers, cluster=self._cluster)

    def _send(
        self, connection: BlockingPublisher, message: Message, retry: Retry, waiting: float | None
    ) -> Receipt | None:
        receipt, properties = None, message.properties()
        try:
            if waiting is not None:
                properties |= connection.ask(message.id)
            connection.publish(message.body, properties_of(properties), within=retry.left)
            if waiting is not None:
                receipt = connection.receipt(message.id, within=waiting - time.monotonic())
        except UnroutableError:
            self._put_back(connection)
            raise
        except BaseException:  # KeyboardInterrupt too: an answer may be under way that is not the next publish's
            connection.drop()
            raise
        self._put_back(connection)
        self._pauses.published()
        return receipt

    def _put_back(self, connection: BlockingPublisher) -> None:
        self._idle.append((time.monotonic(), connection))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
