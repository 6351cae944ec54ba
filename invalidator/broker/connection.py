"""One AMQP connection: dialled at each broker address in turn, named for the management UI, its errors in our words.

There is no robust connection here. What depends on a connection is built anew, in order, whenever one is lost
(`invalidator.broker.consumer` for what is read, `invalidator.broker.publisher` for what is written), because aio-pika's
own recovery hides what an invalidation worker must know: that a queue was deleted, so that events may have been missed.
"""

import asyncio
import random
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any

import aio_pika
import aiormq
from aiormq.abc import AbstractChannel as RawChannel
from pamqp import commands
from yarl import URL

from invalidator.broker.address import Attempts, tls, urls
from invalidator.errors import ConfigurationError, RefusedError, UnreachableError
from invalidator.settings import BrokerSettings, masked, tls_in_words

Connection = aio_pika.abc.AbstractConnection

#: Seconds between two tries, at random, so that a fleet does not come back all at once.
RETRY_SECONDS = (0.5, 2.0)
#: Seconds that a good-bye may take.
CLOSE_SECONDS = 2.0
NOT_ALLOWED = 530


async def connect(
    broker: BrokerSettings, *, name: str, properties: dict[str, Any] | None = None, **kwargs: Any
) -> Connection:
    """Connect to the first broker address that answers.

    Raises:
        RefusedError: a broker answered and said no (user, password, vhost).
        UnreachableError: none answered.
    """
    client = {"product": "invalidator", "version": version("invalidator"), "connection_name": name}
    if context := tls(broker):
        kwargs |= {"context": context, "server_hostname": broker.tls_server_name}
    attempts = Attempts()
    for url in urls(broker):
        with attempts.at(url):
            return await _connect_to(url, broker, client | (properties or {}), kwargs)
    raise attempts.failure()


async def _connect_to(url: URL, broker: BrokerSettings, client: dict[str, Any], kwargs: dict[str, Any]) -> Connection:
    connection = aio_pika.Connection(_with_heartbeat(url, broker.heartbeat), client_properties=client)
    connection.kwargs.update(kwargs)
    try:
        with _only_our_own_cancellation():
            await connection.connect(timeout=broker.connect_timeout)
    except asyncio.CancelledError:
        await close(connection)
        raise
    except (aiormq.AMQPError, OSError, TimeoutError, RuntimeError) as error:
        # An unclosed connection is closed by the garbage collector: in any thread, with a warning.
        await close(connection)
        if refusal := _refusal(error):
            raise refusal from error
        of_tls = tls_in_words(error) if "context" in kwargs else None
        raise UnreachableError(of_tls or _reason(error)) from error
    return connection


async def close(connection: Connection) -> None:
    """Close a connection, whatever state it is in; never raises, never waits long."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            with _only_our_own_cancellation():
                await connection.close()
    except (aiormq.AMQPError, OSError, TimeoutError, RuntimeError):
        pass  # gone already: which is what was asked for


async def raw_channel(connection: Connection, *, confirms: bool = False) -> RawChannel:
    """A fresh channel of aiormq's, which tells when it closes and when the broker takes a consumer away."""
    if connection.transport is None:
        raise UnreachableError("the connection to the broker was lost")
    return await connection.transport.connection.channel(publisher_confirms=confirms, on_return_raises=True)


@asynccontextmanager
async def in_our_words(doing: str) -> AsyncIterator[None]:
    """Translate what aio-pika raises while ``doing``, for instance 'declaring the queue "invalidator.eu"'."""
    try:
        with _only_our_own_cancellation():
            yield
    except aiormq.exceptions.ChannelAccessRefused as error:
        raise RefusedError(f"the broker refuses {doing}: {_reason(error)}; see rabbitmqctl set_permissions") from error
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise ConfigurationError(f"the broker cannot go on {doing}: {_reason(error)}") from error
    except (aiormq.AMQPError, OSError, TimeoutError, RuntimeError, asyncio.InvalidStateError) as error:
        raise UnreachableError(f"lost the broker while {doing}: {_reason(error)}") from error


@contextmanager
def _only_our_own_cancellation() -> Iterator[None]:
    """Raise ConnectionError for a cancellation that is not meant for this task.

    When aiormq gives up on a broker that is silent, it cancels the calls under way, and the task that awaits one would
    end as if it had been told to.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the connection was given up, the broker was silent") from error


def pause() -> float:
    """Seconds to wait before the next try."""
    return random.uniform(*RETRY_SECONDS)


def _with_heartbeat(url: URL, seconds: int) -> URL:
    # aiormq calls a broker dead when nothing came for 3 * (heartbeat + 1) seconds, and looks every half heartbeat. A
    # second less makes that 3 to 3.5 heartbeats: 35 s at the most by default.
    return url.update_query(heartbeat=max(1, seconds - 1))


def _refusal(error: BaseException) -> RefusedError | None:
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError | aiormq.exceptions.AuthenticationError):
        return RefusedError("wrong user or password; see broker.url and broker.password_file")
    goodbye = _goodbye(error)
    if goodbye and goodbye.reply_code == NOT_ALLOWED:
        return RefusedError(f"{goodbye.reply_text}; see broker.url, broker.vhost and rabbitmqctl set_permissions")
    return None


def _goodbye(error: BaseException) -> commands.Connection.Close | None:
    """The broker's last word while a connection was being opened: aiormq drops its code and text, but not the frame."""
    for stack, _ in traceback.walk_tb(error.__traceback__):
        if isinstance(frame := stack.f_locals.get("frame"), commands.Connection.Close):
            return frame
    return None


def _reason(error: BaseException) -> str:
    if goodbye := _goodbye(error):
        return f"{goodbye.reply_code} {goodbye.reply_text}"
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer in time"
    return masked(" ".join(str(part) for part in error.args if part) or repr(error))
