"""Publishing from threads and scripts, Flask and Django: no thread and no event loop of its own.

    publish ─> take the connection used last, or make one ─> write, wait for the confirmation ─> put it back

Rules of this file:

1. A connection belongs to one publish at a time. There are as many as ever published at once.
2. A forked process forgets its parent's connections and closes none: the sockets are the parent's too.
3. A connection that was idle for long is not trusted: the broker gives it up after a while without heartbeats, and
   what stands between may have forgotten it in silence.
4. A connection that turns out dead is replaced once, and the same event published again: a repetition does no harm.
"""

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import pika

from invalidator.app.publish.message import CONTENT_TYPE, PERSISTENT, Message, broker_settings, message
from invalidator.broker.address import connection_name
from invalidator.broker.blocking_publisher import Link, connect
from invalidator.broker.timestamp import stamp
from invalidator.errors import InvalidatorError, UnconfirmedError, UnroutableError
from invalidator.settings import BrokerSettings

#: Seconds after which an idle connection is replaced; below the broker's patience.
IDLE_SECONDS = 50.0


class Publisher:
    """Publishes events, confirmed, for any number of threads; connects when first needed, and again after a fork.

    ::

        publisher = Publisher("amqp://shop@rabbitmq.internal/", app_id="shop")
        publisher.publish("product_updated", {"id": "abc-123", "price": 109.99})  # after the commit

    `broker` is a URL, or settings where more than that differs (other broker nodes, another exchange). `timeout` is how
    many seconds a publish may take in all, connecting and a second try included.
    """

    def __init__(self, broker: str | BrokerSettings, *, app_id: str = "", timeout: float = 1.0) -> None:
        self._broker = broker_settings(broker)
        self._app_id = app_id
        self._timeout = timeout
        self._pid = os.getpid()
        #: Connections nobody publishes on, each with when it was used last. Appending and popping need no lock.
        self._idle: list[tuple[float, Link]] = []

    def publish(self, event_type: str, data: Mapping[str, Any]) -> None:
        """Return once the broker has stored the event for every cluster.

        Raises:
            UnconfirmedError: the event may have gone out or not: publish it again, which does no harm.
            UnroutableError: it did not: no cluster's queue is bound to the exchange.
            UnreachableError, RefusedError: it did not: there is no broker, or it says no.
            PoisonError: it did not: no worker could read such an event.
        """
        self.send(message(event_type, data, app_id=self._app_id))

    def send(self, message: Message) -> None:
        """Publish a message made before; raises as `publish`."""
        deadline = time.monotonic() + self._timeout
        link = self._take()
        if link is None:
            self._send(self._connect(deadline), message, deadline)
            return
        try:
            self._send(link, message, deadline)
        except UnconfirmedError:
            if time.monotonic() >= deadline:
                raise
            self._send_again(message, deadline)

    def close(self) -> None:
        """Close what is idle. Publishing again connects again."""
        while self._idle and (link := self._take()):
            link.close()

    def _take(self) -> Link | None:
        """The idle connection used last, if there is one that can be trusted."""
        if self._pid != os.getpid():
            self._pid, self._idle = os.getpid(), []
        while self._idle:
            try:
                used, link = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if time.monotonic() - used < IDLE_SECONDS and link.is_open():
                return link
            link.close()
        return None

    def _connect(self, deadline: float) -> Link:
        name = connection_name("publisher", self._app_id)
        return connect(self._broker, name=name, within=deadline - time.monotonic())

    def _send(self, link: Link, message: Message, deadline: float) -> None:
        properties = pika.BasicProperties(
            content_type=CONTENT_TYPE,
            delivery_mode=PERSISTENT,
            message_id=message.id,
            timestamp=int(message.time.timestamp()),
            headers=stamp(message.time),
            type=message.type_property,
            app_id=message.app_id or None,
        )
        try:
            within = deadline - time.monotonic()
            link.publish(message.body, properties, exchange=self._broker.exchange, within=within)
        except UnroutableError:
            self._put_back(link)
            raise
        except BaseException:  # KeyboardInterrupt too: an answer may be under way that is not the next publish's
            link.drop()
            raise
        self._put_back(link)

    def _send_again(self, message: Message, deadline: float) -> None:
        try:
            self._send(self._connect(deadline), message, deadline)
        except UnconfirmedError:
            raise
        except InvalidatorError as error:
            raise UnconfirmedError(f"{error}; the first try may have gone out") from error

    def _put_back(self, link: Link) -> None:
        self._idle.append((time.monotonic(), link))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
