"""One AMQP connection that publishes and waits, in the caller's own thread: nothing happens on it in between.

pika's loop runs only as long as somebody waits here, so there is no thread that a fork, uWSGI or gevent could lose. Its
BlockingConnection would do the same, but waits for a confirmation as long as that takes.
"""

import ssl
import time
from importlib.metadata import version
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorPhaseErrorBase
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)
from pika.spec import Basic
from yarl import URL

from invalidator.broker.address import tls, urls
from invalidator.errors import InvalidatorError, RefusedError, UnconfirmedError, UnreachableError, UnroutableError
from invalidator.settings import BrokerSettings, masked, tls_in_words

#: Seconds of silence after which the broker gives a connection up. Nothing is sent while nobody publishes.
HEARTBEAT = 60
#: Seconds that a good-bye may take.
CLOSE_SECONDS = 0.2


def connect(broker: BrokerSettings, *, name: str, within: float) -> "Link":
    """A link to the first broker address that answers; each gets its share of the `within` seconds.

    Raises:
        RefusedError: a broker answered and said no (user, password, vhost).
        UnreachableError: none answered.
    """
    deadline = time.monotonic() + within
    addresses, failures = urls(broker), list[str]()
    for number, url in enumerate(addresses):
        share = (deadline - time.monotonic()) / (len(addresses) - number)
        link = Link(parameters(broker, url, name, within=share))
        try:
            link.open(within=share)
        except UnreachableError as error:
            failures.append(f"{url.host}:{url.port}: {error}")
        except RefusedError as error:
            raise RefusedError(f'{url.host}:{url.port} refuses user "{url.user}": {error}') from error
        else:
            return link
    raise UnreachableError(f"no broker answers: {'; '.join(failures)}")


class Link:
    """A connection with one confirming channel, for one publish at a time."""

    def __init__(self, parameters: pika.ConnectionParameters) -> None:
        self._loop = IOLoop()
        self._channel: Any = None
        #: What the callbacks have to say: True, or why not; None as long as it is waited for.
        self._answer: Any = None
        #: What else the broker has said while it was.
        self._is_returned = self._is_blocked = False
        self._connection = pika.SelectConnection(
            parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)

    def open(self, *, within: float) -> None:
        """Raises RefusedError or UnreachableError, and is then closed."""
        self._wait(within)
        if self._answer is not True:
            error = UnreachableError("no answer in time") if self._answer is None else in_words(self._answer)
            self.close()
            raise error

    def is_open(self) -> bool:
        """Whether it can still be published on, by all that has come in meanwhile."""
        self._run(0)
        return bool(self._connection.is_open and self._channel.is_open)

    def publish(self, body: bytes, properties: pika.BasicProperties, *, exchange: str, within: float) -> None:
        """Return once the broker has stored the message in every queue bound to the exchange.

        Raises:
            UnroutableError, RefusedError: it was not stored anywhere.
            UnconfirmedError: it may have been; this link is of no more use then.
        """
        self._answer = None
        self._is_returned = self._is_blocked = False
        self._channel.basic_publish(exchange, "", body, properties, mandatory=True)
        self._wait(within)
        if self._answer is not True:
            raise self._unpublished(exchange, within)

    def close(self) -> None:
        """Say good-bye, but not for long; never raises."""
        if self._connection.is_open:
            self._connection.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        while not self._connection.is_closed and time.monotonic() < deadline:
            self._run(deadline - time.monotonic())
        self.drop()

    def drop(self) -> None:
        """End it at once, whatever the other side does."""
        if not self._connection.is_closed:
            # pika has no public way to end a connection whose broker is silent.
            self._connection._terminate_stream(AMQPError("given up"))  # noqa: SLF001
            self._run(0)
        self._loop.close()

    def _wait(self, within: float) -> None:
        """Return once there is an answer, or the time is up."""
        deadline = time.monotonic() + within
        while self._answer is None and (left := deadline - time.monotonic()) > 0:
            self._run(left)

    def _run(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._loop.stop)
        try:
            self._loop.start()
        finally:
            self._loop.remove_timeout(timer)

    def _end(self, answer: Any) -> None:
        # The first word counts: a channel that is closed says why, and its connection may be closed after it.
        if self._answer is None:
            self._answer = answer
        self._loop.stop()

    def _on_open(self, _: Any) -> None:
        self._connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._on_lost)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._end(True))

    def _on_return(self, *_: Any) -> None:
        self._is_returned = True  # and an ack comes after it

    def _on_confirm(self, frame: Any) -> None:
        self._end((isinstance(frame.method, Basic.Ack) and not self._is_returned) or frame.method)

    def _on_lost(self, _: Any, reason: BaseException) -> None:
        self._end(reason)

    def _on_blocked(self, *_: Any) -> None:
        self._is_blocked = True

    def _unpublished(self, exchange: str, within: float) -> InvalidatorError:
        match self._answer:
            case Basic.Ack() | ChannelClosedByBroker(reply_code=404):  # after a return; there is no such exchange
                return UnroutableError(f'no queue is bound to the exchange "{exchange}": nothing stored the message')
            case ChannelClosedByBroker(reply_code=403, reply_text=text):
                return RefusedError(f'the broker refuses publishing to "{exchange}": {text}; see set_permissions')
            case None if self._is_blocked:
                return UnconfirmedError("the broker is in an alarm: see rabbitmq-diagnostics alarms")
            case None:
                return UnconfirmedError(f"the broker did not confirm within {within:.2g} s")
            case Basic.Nack():
                return UnconfirmedError("the broker would not store the message (a full queue, one without a leader?)")
        return UnconfirmedError(f"lost the broker while publishing: {_reason(self._answer)}")


def parameters(broker: BrokerSettings, url: URL, name: str, *, within: float) -> pika.ConnectionParameters:
    """One try at one address, over within so many seconds. Raises UnreachableError as `tls` does."""
    # Without a user or a password it is RabbitMQ's "guest", as aio-pika takes it; pika fails on a missing password.
    url = url.with_query(None).with_user(url.user or "guest").with_password(url.password or "guest")
    parameters = pika.URLParameters(str(url))
    parameters.client_properties = {
        "product": "invalidator",
        "version": version("invalidator"),
        "connection_name": name,
    }
    parameters.heartbeat = HEARTBEAT
    # A little less than is waited: pika ends a handshake in good order by its own clock only.
    parameters.socket_timeout = parameters.stack_timeout = max(0.9 * within, 0.01)
    if context := tls(broker):
        parameters.ssl_options = pika.SSLOptions(context, server_hostname=broker.tls_server_name or url.host)
    return parameters


def in_words(error: BaseException) -> InvalidatorError:
    """Why there is no connection."""
    match error:
        case AuthenticationError() | ProbableAuthenticationError():
            return RefusedError("wrong user or password; see the broker's URL")
        case ProbableAccessDeniedError() | ConnectionClosedByBroker(reply_code=403 | 530):
            return RefusedError(f"{_reason(error)}; see the broker's URL and rabbitmqctl set_permissions")
    return UnreachableError(_reason(error))


def _reason(error: BaseException) -> str:
    """What pika's innermost error says; it wraps one step of connecting into the next."""
    match error:
        case AMQPConnectionWorkflowFailed():
            return _reason(error.exceptions[-1])
        case AMQPConnectorPhaseErrorBase():
            return _reason(error.exception)
        case AMQPError(args=[BaseException() as inner, *_]):
            return _reason(inner)
        case ConnectionClosedByBroker():
            return f"{error.reply_code} {error.reply_text}"
        case ssl.SSLError():
            return tls_in_words(error) or repr(error)
    return masked(" ".join(str(part) for part in error.args if part) or repr(error))
