"""The permissions of this user, each tried with an operation that the broker must refuse, so that nothing changes.

    read       consume with a priority that is text       not allowed: 403      allowed: 406
    write      publish with an expiration that is text    not allowed: 403      allowed: 406
    bind       remove a binding that does not exist       not allowed: 403      allowed: done, nothing changed
    configure  declare with an invalid argument           not allowed: 403      allowed: 406

RabbitMQ checks the permission before anything else (rabbit_channel.erl). So the kind of refusal shows whether the user
is allowed, for queues and exchanges that do not exist yet, too.
"""

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiormq
from aiormq.abc import AbstractChannel as RawChannel
from pamqp.commands import Basic

from invalidator.broker.connection import Connection, in_our_words, raw_channel
from invalidator.broker.topology import Topology

#: Seconds for one attempt.
TRY_SECONDS = 5.0

Try = Callable[[RawChannel], Awaitable[Any]]


@dataclass(frozen=True)
class Permissions:
    """Three regular expressions, as `rabbitmqctl set_permissions` takes them."""

    configure: str
    write: str
    read: str

    def command(self, user: str, vhost: str) -> str:
        words = ("rabbitmqctl", "set_permissions", "-p", vhost, user, self.configure, self.write, self.read)
        return " ".join(map(shlex.quote, words))


def needed(topology: Topology, *, declares: bool) -> Permissions:
    """Return the permissions that a worker needs: more of them if it also declares."""
    queue, purged, exchange = (re.escape(name) for name in (topology.queue, topology.purged, topology.exchange))
    if not declares:
        read = rf"^{queue}(\.parked\..+)?$"
        if topology.logged:
            read = rf"^({re.escape(topology.log)}|{queue}(\.(gaps|position|tally|parked\..+))?)$"
        return Permissions("^$", rf"^(amq\.default|{purged})$", read)
    ours, bound = rf"{queue}(\.(dead|gaps|again\..+|parked\..+))?", queue
    if topology.logged:
        log = re.escape(topology.log)
        ours = rf"{log}|{queue}(\.(dead|evictions|gaps|position|tally|again\..+|parked\..+))?"
        bound = rf"{log}|{queue}(\.evictions)?"
    read = rf"{exchange}|{purged}|{ours}" if topology.logged else rf"{exchange}|{ours}"
    return Permissions(rf"^({exchange}|{purged}|{ours})$", rf"^(amq\.default|{purged}|{bound})$", rf"^({read})$")


async def refused(consuming: Connection, publishing: Connection, topology: Topology, *, declares: bool) -> list[str]:
    """Return the permissions that a worker needs and this user lacks, in words: "to read invalidator.eu".

    ``publishing`` is a connection of its own, because during an alarm the broker reads nothing from it.

    Raises:
        UnreachableError: the broker does not answer.
    """
    queues = [topology.queue, *map(topology.parked, topology.labels)]
    queues += [topology.log, topology.gaps, topology.position, topology.tally] if topology.logged else []
    tries: list[tuple[str, Connection, Try]] = [(f"to read {name}", consuming, _read(name)) for name in queues]
    tries += [(f"to write to {name or 'amq.default'}", publishing, _write(name)) for name in ("", topology.purged)]
    if declares:
        # Declaring a queue with a dead-letter exchange takes the permission to read that queue.
        tries += [(f"to read {name}", consuming, _read(name)) for name in map(topology.again, topology.delays_ms)]
        things = [*topology.exchanges(), *(queue.name for queue in topology.queues())]
        tries += [(f"to configure {name}", consuming, _configure(name, topology)) for name in things]
        tries += [
            (f"to bind {name} to {exchange}", consuming, _unbind(name, exchange))
            for exchange, name, _ in topology.bindings()
        ]
    return [what for what, connection, attempt in tries if not await _is_allowed(connection, what, attempt)]


async def may_publish(publishing: Connection, exchange: str) -> bool:
    """Return True if this user may publish events. Raises as `refused`."""
    return await _is_allowed(publishing, f"to write to {exchange}", _write(exchange))


async def _is_allowed(connection: Connection, what: str, attempt: Try) -> bool:
    async with in_our_words(f"trying {what}"), asyncio.timeout(TRY_SECONDS):
        channel = await raw_channel(connection, confirms=True)
        try:
            await attempt(channel)
        except aiormq.exceptions.ChannelAccessRefused:
            return False
        except (aiormq.exceptions.ChannelPreconditionFailed, aiormq.exceptions.ChannelNotFoundEntity):
            return True
        await channel.close()
        return True


def _read(queue: str) -> Try:
    async def ignore(_: object) -> None:
        """Do nothing: the broker refuses such a consumer, so nothing is delivered."""

    return lambda channel: channel.basic_consume(queue, ignore, arguments={"x-priority": "none"})


def _write(exchange: str) -> Try:
    refused = Basic.Properties(expiration="none")
    return lambda channel: channel.basic_publish(b"", exchange=exchange, routing_key="", properties=refused)


def _configure(name: str, topology: Topology) -> Try:
    if kind := topology.exchanges().get(name):
        invalid: dict[str, Any] = {"alternate-exchange": 0}
        return lambda channel: channel.exchange_declare(name, exchange_type=kind, durable=True, arguments=invalid)
    return lambda channel: channel.queue_declare(name, durable=True, arguments={"x-message-ttl": -1})


def _unbind(queue: str, exchange: str) -> Try:
    return lambda channel: channel.queue_unbind(queue, exchange, "invalidator check: never bound")
