"""One AMQP connection: made to the first address that answers, named for the management UI, its errors translated.

There is no robust connection here. Whatever depends on a connection is built anew, in order, whenever one is lost
(`invalidator.broker.consume.consumer` for reading, `invalidator.broker.publish.publisher` for writing), because
aio-pika's own recovery hides what an invalidation worker must know: that a queue was deleted, so that events may have
been missed.
"""

import asyncio
import random
import re
import ssl
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aio_pika
import aiormq
from aiormq.abc import AbstractChannel as RawChannel
from pamqp import commands
from yarl import URL

from invalidator import __version__
from invalidator.broker.address import Attempts, connection_name, tls, urls
from invalidator.broker.quiet import quiet
from invalidator.broker.wire.transport import TappedProtocol, Tapping
from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.settings import BrokerSettings, BrokerUrl, Settings, masked
from invalidator.settings.tls import tls_in_words

Connection = aio_pika.abc.AbstractConnection

#: Range of seconds between two attempts, chosen at random, so that a fleet does not come back all at once.
RETRY_SECONDS = (0.5, 2.0)
#: Seconds that closing a connection may take.
CLOSE_SECONDS = 2.0
NOT_ALLOWED = 530
#: RabbitMQ's words for what exists with another value of an argument; it has no field for the argument's name.
_INEQUIVALENT = re.compile(r"inequivalent arg '(?P<argument>[^']+)'")


class InequivalentArgumentError(ConfigurationError):
    """Raised when a queue or exchange exists with another value of the ``argument`` than the one declared."""

    def __init__(self, message: str, argument: str) -> None:
        super().__init__(message)
        self.argument = argument


async def connect(broker: BrokerSettings, *, name: str, properties: dict[str, Any] | None = None) -> Connection:
    """Connect to the first broker address that answers.

    Raises:
        RefusedError: a broker answered and said no (user, password, vhost).
        UnreachableError: no broker answered.
    """
    return (await connect_tapped(broker, name=name, properties=properties))[0]


async def connect_tapped(
    broker: BrokerSettings, *, name: str, properties: dict[str, Any] | None = None
) -> tuple[Connection, TappedProtocol]:
    """Connect as `connect` does; return the connection's protocol, too, from which deliveries can be taken."""
    client = {"product": "invalidator", "version": __version__, "connection_name": name}
    context = tls(broker)
    attempts = Attempts()
    for url in urls(broker):
        with attempts.at(url):
            return await _connect_to(url, broker, client | (properties or {}), context)
    raise attempts.failure()


async def _connect_to(
    url: BrokerUrl, broker: BrokerSettings, client: dict[str, Any], context: ssl.SSLContext | None
) -> tuple[Connection, TappedProtocol]:
    connection = aio_pika.Connection(_as_aiormq_takes_it(url, broker.heartbeat), client_properties=client)
    tapping = Tapping()
    connection.kwargs["transport_factory"] = tapping
    if context:
        connection.kwargs |= {"context": context, "server_hostname": broker.tls_server_name}
    try:
        with quiet(), _only_our_own_cancellation():
            await connection.connect(timeout=broker.connect_timeout)
    except asyncio.CancelledError:
        await close(connection)
        raise
    except (aiormq.AMQPError, OSError, TimeoutError, RuntimeError) as error:
        # An unclosed connection is closed by the garbage collector: in any thread, with a warning.
        await close(connection)
        if refusal := _refusal(error):
            raise refusal from error
        of_tls = tls_in_words(error) if context else None
        raise UnreachableError(of_tls or _reason(error)) from error
    assert tapping.protocol
    return connection, tapping.protocol


async def close(connection: Connection) -> None:
    """Close a connection in whatever state it is; never raise, and wait for CLOSE_SECONDS at most."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            with quiet(), _only_our_own_cancellation():
                await connection.close()
    except (aiormq.AMQPError, OSError, TimeoutError, RuntimeError):
        pass  # it is gone already


@asynccontextmanager
async def connected(settings: Settings, doing: str) -> AsyncIterator[Connection]:
    """Yield a connection for one command, whose name the management UI shows. Raises as `connect`."""
    connection = await connect(settings.broker, name=connection_name(doing, settings.cluster))
    try:
        yield connection
    finally:
        await close(connection)


def server_property(connection: Connection, name: str) -> str:
    """Return a property that the broker sent when the connection was opened: ``version``, ``cluster_name``."""
    properties = connection.transport.connection.server_properties if connection.transport else {}
    value = properties.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


async def raw_channel(connection: Connection, *, confirms: bool = False) -> RawChannel:
    """Open a channel of aiormq's, which has callbacks for its closing and for a consumer that the broker cancels."""
    if connection.transport is None:
        raise UnreachableError("the connection to the broker was lost")
    with quiet():
        return await connection.transport.connection.channel(publisher_confirms=confirms, on_return_raises=True)


@asynccontextmanager
async def in_our_words(doing: str) -> AsyncIterator[None]:
    """Translate what aio-pika raises while ``doing``, for instance 'declaring the queue "invalidator.eu"'.

    Raises:
        RefusedError: this user may not.
        InequivalentArgumentError: it exists with another argument.
        ConfigurationError: another precondition failed.
        UnreachableError: the broker was lost.
    """
    try:
        with _only_our_own_cancellation():
            yield
    except aiormq.exceptions.ChannelAccessRefused as error:
        raise RefusedError(f"the broker refuses {doing}: {_reason(error)}; see rabbitmqctl set_permissions") from error
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise _precondition_failed(f"the broker cannot go on {doing}: {_reason(error)}") from error
    except (aiormq.AMQPError, OSError, TimeoutError, RuntimeError, asyncio.InvalidStateError) as error:
        raise UnreachableError(f"lost the broker while {doing}: {_reason(error)}") from error
    except Exception as error:
        if type(error) is not Exception:  # aiormq's for a call whose channel this program has closed meanwhile
            raise
        raise UnreachableError(f"lost the broker while {doing}: the channel was closed") from error


@contextmanager
def _only_our_own_cancellation() -> Iterator[None]:
    """Raise ConnectionError for a cancellation that is not meant for this task.

    When aiormq gives up on a silent broker, it cancels the calls under way. Without this, a task that awaits one would
    end as if it had been cancelled itself.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the broker was silent, so the connection was given up") from error


def _precondition_failed(message: str) -> ConfigurationError:
    if named := _INEQUIVALENT.search(message):
        return InequivalentArgumentError(message, named["argument"])
    return ConfigurationError(message)


def pause() -> float:
    """Return the seconds to wait before the next attempt."""
    return random.uniform(*RETRY_SECONDS)


def _as_aiormq_takes_it(url: BrokerUrl, heartbeat: int) -> URL:
    # aiormq gives a broker up when nothing came for 3 * (heartbeat + 1) seconds, and checks every half heartbeat. A
    # second less makes that 3 to 3.5 heartbeats: 35 s at most by default.
    password = url.password.reveal() if url.password else None
    return URL(str(url)).with_password(password).update_query(heartbeat=max(1, heartbeat - 1))


def _refusal(error: BaseException) -> RefusedError | None:
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError | aiormq.exceptions.AuthenticationError):
        return RefusedError("wrong user or password; see broker.url and broker.password_file")
    closed = _last_close(error)
    if closed and closed.reply_code == NOT_ALLOWED:
        return RefusedError(f"{closed.reply_text}; see broker.url, broker.vhost and rabbitmqctl set_permissions")
    return None


def _last_close(error: BaseException) -> commands.Connection.Close | None:
    """Return the Connection.Close with which the broker ended the opening of a connection, if there was one.

    aiormq 7.2 raises an error without its code and text, but keeps the frame in a local variable, `frame`, of the
    function that raises. tests/test_connection.py fails when another version does not.
    """
    for stack, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(frame := stack.f_locals.get("frame"), commands.Connection.Close):
            return frame
    return None


def _reason(error: BaseException) -> str:
    if closed := _last_close(error):
        return f"{closed.reply_code} {closed.reply_text}"
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    return masked(" ".join(str(part) for part in error.args if part) or repr(error))
