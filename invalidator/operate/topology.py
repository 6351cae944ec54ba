"""Declaring and verifying a cluster's exchanges, queues and bindings.

Verifying compares the management API's descriptions with the arguments that lose nothing. Without that API it checks
over AMQP that each of them exists, and reports the rest as not verified.
"""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from functools import partial

import aiormq

from invalidator.broker.address import connection_name
from invalidator.broker.connection import Connection, connected, in_our_words, raw_channel, server_property
from invalidator.broker.declare import declare, exists, inspect_queue, major_version
from invalidator.broker.errors import AlarmError
from invalidator.broker.gap import Gap
from invalidator.broker.gaps import is_first_start, remember_gap
from invalidator.broker.publish.publisher import ConfirmedPublisher
from invalidator.broker.topology import Topology
from invalidator.errors import ConfigurationError, InvalidatorError, UnreachableError
from invalidator.operate.durability import DECLARE, Loss, Losses
from invalidator.operate.findings import Finding, ok, wrong
from invalidator.operate.management import Management, not_asked, vhost_of
from invalidator.settings import Settings


async def declared(settings: Settings) -> Gap | None:
    """Declare what is missing. If the queue of the events had been there before, store the gap first and return it.

    Raises:
        AlarmError: the gap cannot be stored now, and nothing was declared. Nothing can be published meanwhile.
        InvalidatorError: as `connect` and `declare`, or everything is declared and the gap cannot be stored.
    """
    async with connected(settings, "topology") as connection:
        topology = Topology.of(settings)
        inspect = partial(inspect_queue, connection)
        if await inspect(topology.queue) is not None or await is_first_start(inspect, topology):
            await declare(connection, topology)
            return None
        gap = Gap(None, datetime.now(UTC), "the queue was not there")
        await _declare_after(gap, connection, topology, settings)
        return gap


async def _declare_after(gap: Gap, connection: Connection, topology: Topology, settings: Settings) -> None:
    """Store the gap, for as long as the missing queue still shows it; without an alarm, declare in any case."""
    publisher = ConfirmedPublisher(lambda: settings.broker, name=connection_name("topology", settings.cluster))
    try:
        await remember_gap(publisher, topology, gap)
    except AlarmError:
        raise
    except InvalidatorError:  # perhaps its queue is missing, too
        await declare(connection, topology)
        await remember_gap(publisher, topology, gap)
    else:
        await declare(connection, topology)
    finally:
        await publisher.close()


async def verified(settings: Settings) -> list[Finding]:
    """Return the findings of `verify`. Raises as `connect`."""
    async with connected(settings, "topology") as connection:
        return await verify(settings, connection)


async def verify(settings: Settings, connection: Connection) -> list[Finding]:
    """Return one finding for each exchange, queue and binding.

    Raises:
        UnreachableError: the broker was lost.
    """
    management, topology = Management(settings), Topology.of(settings)
    losses = Losses(topology, vhost_of(settings), major_version(connection))
    try:
        await _assert_same_broker(management, connection)
        return [finding async for finding in _described(management, topology, losses)]
    except InvalidatorError as error:
        found = [finding async for finding in _existing(connection, topology)]
        text = f"arguments, policies and bindings are not verified: {error}"
        return [*found, not_asked("topology", text, settings, error)]


async def _assert_same_broker(management: Management, connection: Connection) -> None:
    """Raise UnreachableError for the management API of another broker, which would answer just as readily."""
    over_amqp, over_http = server_property(connection, "cluster_name"), await management.cluster_name()
    if over_amqp != over_http:
        raise UnreachableError(
            f'the management API at {management.url} is that of the broker "{over_http}", but broker.url leads to '
            f'"{over_amqp}"; see management.url'
        )


async def _described(management: Management, topology: Topology, losses: Losses) -> AsyncIterator[Finding]:
    """Compare everything with its description by the management API."""
    for name, kind in topology.exchanges().items():
        if (described := await management.exchange(name)) is None:
            yield _missing("exchange", name)
        else:
            for finding in _compared("exchange", name, losses.of_exchange(kind, described), good=kind):
                yield finding
    for queue in topology.queues():
        if (described := await management.queue(queue.name)) is None:
            yield _missing("queue", queue.name)
        else:
            for finding in _compared("queue", queue.name, losses.of_queue(queue, described), good="loses nothing"):
                yield finding
    for exchange, name, _ in topology.bindings():
        where = f"{exchange} -> {name}"
        if name in await management.bound_queues(exchange):
            yield ok("binding", where)
        else:
            yield wrong("binding", f"{where}: not bound, no event arrives", DECLARE, meaning=UnreachableError)


def _compared(what: str, name: str, losses: Iterable[Loss], *, good: str) -> list[Finding]:
    found = [
        Finding("note", what, f"{name} {loss.text}", loss.fix)
        if loss.is_note
        else wrong(what, f"{name} {loss.text}", loss.fix, meaning=ConfigurationError)
        for loss in losses
    ]
    return found or [ok(what, f"{name}: {good}")]


async def _existing(connection: Connection, topology: Topology) -> AsyncIterator[Finding]:
    """Check over AMQP that everything exists."""
    for name in topology.exchanges():
        there = await _exchange_exists(connection, name)
        yield ok("exchange", f"{name}: there") if there else _missing("exchange", name)
    for queue in topology.queues():
        there = await exists(connection, queue.name)
        yield ok("queue", f"{queue.name}: there") if there else _missing("queue", queue.name)


def _missing(what: str, name: str) -> Finding:
    return wrong(what, f"{name}: not there", f"{DECLARE}, or start a worker", meaning=UnreachableError)


async def _exchange_exists(connection: Connection, name: str) -> bool:
    async with in_our_words(f'checking the exchange "{name}"'):
        channel = await raw_channel(connection)
        try:
            await channel.exchange_declare(name, passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        finally:
            await channel.close()
        return True
