"""One AMQP connection that publishes and waits, in the caller's own thread: nothing happens on it in between.

pika's loop runs only while a caller waits here, so there is no thread that a fork, uWSGI or gevent could lose. Its
BlockingConnection would do the same, but waits for a confirmation as long as that takes.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPError

from invalidator.broker.address import Attempts, urls
from invalidator.broker.errors import no_answer_in_time
from invalidator.broker.messages import Receipt
from invalidator.broker.publish.confirms import Confirms
from invalidator.broker.publish.numbers import Numbers
from invalidator.broker.publish.opening import parameters
from invalidator.broker.publish.replies import REPLY_TO, Replies
from invalidator.broker.publish.statements import Statements
from invalidator.broker.quiet import quiet
from invalidator.settings import BrokerSettings

T = TypeVar("T")

#: Seconds that closing may take.
CLOSE_SECONDS = 0.2


def connect(
    broker: BrokerSettings, *, name: str, within: float, numbers: Numbers, cluster: str = ""
) -> "BlockingPublisher":
    """Return a publisher connected to the first broker address that answers; each gets its share of the seconds.

    ``numbers`` are those of its events, if there is a log. ``cluster`` names the one whose receipts may be waited for.

    Raises:
        RefusedError: a broker refuses the user, the password or the vhost.
        UnreachableError: no broker answers.
    """
    deadline = time.monotonic() + within
    addresses, attempts = urls(broker), Attempts()
    for number, url in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - number)
        with attempts.at(url):
            publisher = BlockingPublisher(
                parameters(broker, url, name, within=share), broker, numbers=numbers, cluster=cluster
            )
            publisher.open(within=share)
            return publisher
    raise attempts.failure()


class BlockingPublisher:
    """A connection with one confirming channel, for one publish at a time."""

    def __init__(
        self, parameters: pika.ConnectionParameters, broker: BrokerSettings, *, numbers: Numbers, cluster: str = ""
    ) -> None:
        self._loop = IOLoop()
        self._replies = Replies(cluster)
        self._receives_replies = False
        self._receipt: Receipt | None = None
        self._statements = Statements(numbers, broker.log, changed=self._loop.stop)
        self._confirms: Confirms[Any] = Confirms(
            broker.exchange, changed=self._loop.stop, confirmed=lambda _: None, statements=self._statements
        )
        with quiet():
            self._connection = pika.SelectConnection(
                parameters,
                on_open_callback=self._confirms.open_on,
                on_open_error_callback=self._confirms.on_lost,
                on_close_callback=self._confirms.on_lost,
                custom_ioloop=self._loop,
            )

    def open(self, *, within: float) -> None:
        """Wait until the connection and its channel are open.

        Raises:
            RefusedError, UnreachableError: as `connect`; the connection is closed.
        """
        confirms, deadline = self._confirms, time.monotonic() + within
        while not (confirms.is_ready or confirms.failure) and (left := deadline - time.monotonic()) > 0:
            self._run(left)
        if not confirms.is_ready:
            self.close()
            raise confirms.failure or no_answer_in_time()

    def is_open(self) -> bool:
        """Return True if the connection is open still, after all that the broker has sent meanwhile."""
        self._run(0)
        return bool(self._connection.is_open and self._confirms.is_open())

    def publish(self, body: bytes, properties: pika.BasicProperties, *, within: float) -> None:
        """Return once the broker has stored the message in every queue bound to the exchange.

        Raises:
            UnroutableError, RefusedError: the message was not stored.
            UnconfirmedError: the message may have been stored; this connection is of no more use.
        """
        confirms, deadline = self._confirms, time.monotonic() + within
        confirms.forget()
        confirms.publish(body, properties)
        while not confirms.is_settled() and (left := deadline - time.monotonic()) > 0:
            self._run(left)
        if not confirms.is_settled():
            raise confirms.overdue(within)
        if confirms.failure:
            raise confirms.failure

    def ask(self, id: str) -> dict[str, Any]:
        """Return the AMQP properties with which the next message asks for a receipt; see `receipt`."""
        if not self._receives_replies:
            self._receives_replies = True
            self._confirms.channel.basic_consume(REPLY_TO, self._on_reply, auto_ack=True)
        self._receipt = None
        return self._replies.expect(id, self._keep)

    def receipt(self, id: str, *, within: float) -> Receipt | None:
        """Return the cluster's receipt for a message that was published, or None if it does not come in time."""
        deadline = time.monotonic() + within
        while not self._receipt and self._confirms.is_open() and (left := deadline - time.monotonic()) > 0:
            self._run(left)
        self._replies.forget(id)
        return self._receipt

    def _keep(self, receipt: Receipt) -> None:
        self._receipt = receipt
        self._loop.stop()

    def _on_reply(self, _: Any, __: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self._replies.receive(properties.correlation_id, body)

    def publish_many(self, messages: Iterable[tuple[bytes, pika.BasicProperties, T]], *, within: float) -> Iterator[T]:
        """Publish in order, many in flight, and yield the item of each message, in order, once it is confirmed.

        ``within`` is the number of seconds after which a broker that confirms nothing is given up.

        Raises:
            UnroutableError, RefusedError, UnconfirmedError: a message failed; `left` is the account.
        """
        confirms = self._confirms
        confirms.forget()
        for body, properties, item in messages:
            confirms.publish(body, properties, item)
            if confirms.is_full():
                self._settle(confirms.has_room, within)
                yield from confirms.take_confirmed()
            if confirms.failure:
                break
        self._settle(confirms.is_settled, within)
        yield from confirms.take_confirmed()
        if confirms.failure:
            raise confirms.failure

    def left(self) -> list[tuple[Any, bool]]:
        """Return the items of `publish_many` from the first unconfirmed message on, with True for the confirmed."""
        return self._confirms.left()

    def state(self) -> bool:
        """State what is confirmed, and wait briefly until the broker has it; never raises.

        Return False if nothing can be stated on this connection.
        """
        self._statements.state()
        deadline = time.monotonic() + CLOSE_SECONDS
        while not self._statements.is_settled() and (left := deadline - time.monotonic()) > 0:
            self._run(left)
        return self._statements.is_there

    def _settle(self, is_due: Callable[[], bool], within: float) -> None:
        confirms = self._confirms
        while not is_due():
            before, deadline = len(confirms.unconfirmed), time.monotonic() + within
            while not is_due() and len(confirms.unconfirmed) == before:
                if (seconds := deadline - time.monotonic()) <= 0:
                    confirms.fail(confirms.overdue(within))
                    return
                self._run(seconds)

    def close(self) -> None:
        """Close the connection, waiting only briefly for the broker; never raises."""
        self._confirms.abandon()
        if self._connection.is_open:
            self.state()
            with quiet():
                self._connection.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        while not self._connection.is_closed and time.monotonic() < deadline:
            self._run(deadline - time.monotonic())
        self.drop()

    def drop(self) -> None:
        """End the connection at once, whatever the other side does."""
        self._confirms.abandon()
        if not self._connection.is_closed:
            # pika has no public way to end a connection whose broker is silent.
            with quiet():
                self._connection._terminate_stream(AMQPError("given up"))  # noqa: SLF001
            self._run(0)
        self._loop.close()

    def _run(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._loop.stop)
        try:
            with quiet():
                self._loop.start()
        finally:
            self._loop.remove_timeout(timer)
