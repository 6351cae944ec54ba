"""Hearing all that is published to an exchange, in a thread of its own, through a queue that nobody else has.

    connect ─> a queue of our own, bound ─> each message to `hear` ─┐
       ^                                                            │ the broker is lost, or the queue was deleted
       └───────────────────── after a pause ────────────────────────┘

What is published while nobody listens is not heard later: who must not miss anything has a durable queue.
"""

import threading
from collections.abc import Callable

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from invalidator.broker.address import urls
from invalidator.broker.blocking_publisher import in_words, parameters
from invalidator.broker.connection import pause
from invalidator.errors import InvalidatorError, UnreachableError
from invalidator.settings import BrokerSettings

#: Seconds that a closing listener may take to hear the last message out.
CLOSE_SECONDS = 5.0

log = structlog.get_logger()


class Listener:
    """Calls `hear(body, properties)` for each message, one after another; an error of it is the end of the listener."""

    def __init__(
        self, broker: BrokerSettings, *, name: str, hear: Callable[[bytes, pika.BasicProperties], None]
    ) -> None:
        self._broker = broker
        self._name = name
        self._hear = hear
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._stopping = threading.Event()
        #: Set once the first try has succeeded or failed.
        self._tried = threading.Event()
        self._failure: InvalidatorError | None = None
        self._connection: pika.BlockingConnection | None = None

    def start(self, *, within: float) -> None:
        """Return once every later message is heard.

        Raises:
            UnreachableError, RefusedError: no broker answered, or one said no; nothing is heard.
        """
        self._within = within
        self._thread.start()
        if not self._tried.wait(within):
            self._stopping.set()
            raise UnreachableError(f"no broker within {within:g} s")
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Hear no more; the queue is gone with the connection."""
        self._stopping.set()
        if self._connection and self._connection.is_open:
            self._connection.add_callback_threadsafe(self._stop_consuming)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (AMQPError, OSError) as error:
                failure = in_words(error)
                if not self._tried.is_set():
                    self._failure = failure
                    self._tried.set()
                    return
                log.warning("not listening; what is published meanwhile is not heard", reason=str(failure))
            self._stopping.wait(pause())

    def _listen(self) -> None:
        """Until told to stop, or the consumer is lost: raises what pika raises."""
        addresses = urls(self._broker)
        share = self._within / len(addresses)
        choices = [parameters(self._broker, url, self._name, within=share) for url in addresses]
        self._connection = pika.BlockingConnection(choices)
        with self._connection:
            self._channel = self._connection.channel()
            queue = self._channel.queue_declare("", exclusive=True).method.queue
            self._channel.queue_bind(queue, self._broker.exchange)
            self._channel.basic_consume(queue, self._on_message, auto_ack=True)
            self._tried.set()
            log.info("listening", exchange=self._broker.exchange)
            if not self._stopping.is_set():
                self._channel.start_consuming()

    def _stop_consuming(self) -> None:
        self._channel.stop_consuming()

    def _on_message(
        self, _: BlockingChannel, __: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self._hear(body, properties)
