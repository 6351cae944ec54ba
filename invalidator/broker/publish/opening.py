"""Opening a connection with pika: its parameters, and its errors in our words."""

import ssl

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorPhaseErrorBase
from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from invalidator import __version__
from invalidator.broker.address import tls
from invalidator.errors import InvalidatorError, RefusedError, UnreachableError
from invalidator.settings import BrokerSettings, BrokerUrl, masked
from invalidator.settings.tls import tls_in_words

#: Seconds of silence after which the broker gives a connection up. Nothing is sent while nobody publishes.
HEARTBEAT = 60


def parameters(broker: BrokerSettings, url: BrokerUrl, name: str, *, within: float) -> pika.ConnectionParameters:
    """Return the parameters of one try at one address, which gives up after ``within`` seconds.

    Raises:
        UnreachableError: a file of `broker.tls_…` cannot be read.
    """
    # Without a password it is RabbitMQ's "guest", as aio-pika takes it.
    password = url.password.reveal() if url.password else "guest"
    # A little less than the caller waits: pika ends a handshake in good order by its own clock only.
    timeout = max(0.9 * within, 0.01)
    context = tls(broker)
    return pika.ConnectionParameters(
        host=url.host,
        port=url.port,
        virtual_host=url.vhost,
        credentials=pika.PlainCredentials(url.user, password),
        client_properties={"product": "invalidator", "version": __version__, "connection_name": name},
        heartbeat=HEARTBEAT,
        socket_timeout=timeout,
        stack_timeout=timeout,
        ssl_options=pika.SSLOptions(context, broker.tls_server_name or url.host) if context else None,
    )


def in_our_words(error: BaseException) -> InvalidatorError:
    """Return the error that says why pika could not connect."""
    match error:
        case AuthenticationError() | ProbableAuthenticationError():
            return RefusedError("wrong user or password; see the broker's URL")
        case ProbableAccessDeniedError() | ConnectionClosedByBroker(reply_code=403 | 530):
            return RefusedError(f"{in_words(error)}; see the broker's URL and rabbitmqctl set_permissions")
    return UnreachableError(in_words(error))


def in_words(error: BaseException) -> str:
    """Return the text of pika's innermost error; it wraps one step of connecting into the next."""
    match error:
        case AMQPConnectionWorkflowFailed():
            return in_words(error.exceptions[-1])
        case AMQPConnectorPhaseErrorBase():
            return in_words(error.exception)
        case AMQPError(args=[BaseException() as inner, *_]):
            return in_words(inner)
        case ConnectionClosedByBroker():
            return f"{error.reply_code} {error.reply_text}"
        case ssl.SSLError():
            return tls_in_words(error) or repr(error)
    return masked(" ".join(str(part) for part in error.args if part) or repr(error))
