"""Live messages: events and announcements, read through a temporary queue, so that no worker loses a message.

    product.updates (fanout) ──┬─> <prefix>-tail.<host>.<pid> ─> `passing` ─┬─> invalidator tail
    cache.purged (direct)    ──┘   exclusive, ends with its connection,     ├─> invalidator check --sample
                                   keeps the newest thousand                └─> the states of workers, for check, status

A slow reader misses the oldest messages. Neither the broker's memory nor ours grows.
"""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Container, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from difflib import get_close_matches

from aiormq.abc import AbstractChannel as RawChannel
from aiormq.abc import DeliveredMessage
from msgspec import Struct

from invalidator.assemble import rules_of, type_source_of
from invalidator.broker.connection import connected, in_our_words, raw_channel
from invalidator.broker.messages import HEARTBEAT_SECONDS, WorkerState, read_announcement
from invalidator.broker.topology import Topology
from invalidator.broker.wire.delivery import Delivery, received
from invalidator.errors import ConfigurationError, PoisonError, UnconfirmedError, UnreachableError
from invalidator.events.debezium import NOTICES, TOMBSTONE, encoded_columns
from invalidator.events.event import Event, decode
from invalidator.events.quoting import quoted
from invalidator.operate.dead_letter import declared_type
from invalidator.operate.findings import Finding, ok, wrong
from invalidator.settings import Settings

#: Messages buffered for a slow reader, in the queue and in this process.
KEPT, PREFETCH = 1000, 100
#: Seconds in which every worker states itself, on a busy machine too.
STATE_SECONDS = 2.5 * HEARTBEAT_SECONDS
NO_RULE = "no rule: evicts nothing"
#: The fix for numbers that arrive as base64.
DEBEZIUM_NUMBERS = (
    "set the connector's decimal.handling.mode=string and binary.handling.mode=hex, or send the schema with each "
    "message (schemas.enable=true)"
)
NO_RULE_NEEDED = {TOMBSTONE, *NOTICES}
EVERYTHING = "a whole node was emptied"


class Seen(Struct, omit_defaults=True):
    """One live message, and its meaning."""

    at: datetime
    #: "event", "poison" (an event that no worker could evict), "purged" (an announcement).
    what: str
    #: The event's type, or the cluster that announces.
    of: str
    keys: list[str] = []
    #: The event's message id, or those of the events that were evicted.
    ids: list[str] = []
    #: Why it is poison or evicts nothing, or the nodes that the keys are parked for.
    detail: str = ""
    #: The reason of poison, in one word.
    reason: str = ""
    #: Columns in the keys that could be numbers in Kafka Connect's encoding.
    encoded: list[str] = []


async def passing(
    settings: Settings, *, events: bool = True, purged_of: Collection[str] = ()
) -> AsyncGenerator[Delivery, None]:
    """Yield every event from now on, unless ``events`` is False, and the announcements of these clusters.

    Raises:
        UnreachableError: the broker was lost, or the exchange does not exist.
        RefusedError: this user may not declare or bind such a queue.
    """
    topology, name = Topology.of(settings), f"{settings.broker.prefix}-tail.{socket.gethostname()}.{os.getpid()}"
    arrived: asyncio.Queue[DeliveredMessage] = asyncio.Queue()
    async with connected(settings, "tail") as connection:
        channel = await raw_channel(connection)
        async with in_our_words(f'binding the queue "{name}"'):
            await channel.queue_declare(name, exclusive=True, auto_delete=True, arguments={"x-max-length": KEPT})
            if events:
                await channel.queue_bind(name, topology.exchange)
            for cluster in purged_of:
                await channel.queue_bind(name, topology.purged, routing_key=cluster)
            await channel.basic_qos(prefetch_count=PREFETCH)
            await channel.basic_consume(name, arrived.put)
        while True:
            message = await _next(arrived, channel)
            yield received(message)
            async with in_our_words(f'reading "{name}"'):
                await channel.basic_ack(message.delivery_tag or 0)


async def _next(arrived: "asyncio.Queue[DeliveredMessage]", channel: RawChannel) -> DeliveredMessage:
    getting = asyncio.ensure_future(arrived.get())
    await asyncio.wait({getting, channel.closing}, return_when=asyncio.FIRST_COMPLETED)
    if not getting.done():
        getting.cancel()
        raise UnreachableError("the broker was lost")
    return getting.result()


async def worker_states(settings: Settings, workers: Mapping[str, int]) -> dict[str, dict[str, WorkerState]]:
    """Return the states that workers announce, by cluster and worker.

    It waits for the given number of workers of each cluster, for `STATE_SECONDS` at most. A worker of an older version
    announces none. Raises as `passing`.
    """
    found: dict[str, dict[str, WorkerState]] = {cluster: {} for cluster, count in workers.items() if count}
    if not found:
        return found
    with suppress(TimeoutError):
        announcements = passing(settings, events=False, purged_of=found)
        async with asyncio.timeout(STATE_SECONDS), aclosing(announcements):
            async for delivery in announcements:
                with suppress(PoisonError):
                    announced = read_announcement(delivery.body)
                    if announced.state:
                        found[announced.cluster][announced.worker.rpartition(".")[0]] = announced.state
                if all(len(states) >= workers[cluster] for cluster, states in found.items()):
                    break
    return found


class Interpreter:
    """Interprets messages by the rules of this configuration. Pure."""

    def __init__(self, settings: Settings) -> None:
        self._purged = Topology.of(settings).purged
        self._rules = rules_of(settings)
        self._limit = settings.limits.body_bytes
        self._source = type_source_of(settings)
        self._needs_headers = bool(self._source and self._source.header)

    def interpret(self, delivery: Delivery) -> Seen | None:
        """Return the message's meaning, or None for a heartbeat."""
        now = datetime.now(UTC)
        try:
            return self._announced(now, delivery) if delivery.exchange == self._purged else self._event(now, delivery)
        except PoisonError as error:
            meaning = delivery.meaning()
            of, id = declared_type(delivery.body, meaning), meaning[2]
            return Seen(now, "poison", of, ids=[id] if id else [], detail=str(error), reason=error.reason)

    def rules_making(self, delivery: Delivery, keys: Container[str]) -> list[str]:
        """Return the templates that make any of these keys of an event that `interpret` can read."""
        made = self._rules.explain(self._decoded(delivery))
        return [template for template, bytes in made if any(key.decode() in keys for key in bytes)]

    def _decoded(self, delivery: Delivery) -> Event:
        kind, encoding, _, headers, content_type = delivery.meaning()
        if self._needs_headers:
            headers = delivery.properties.headers
        return decode(delivery.body, kind, encoding, headers, self._limit, content_type, self._source)

    def _event(self, now: datetime, delivery: Delivery) -> Seen:
        id, event = delivery.meaning()[2], self._decoded(delivery)
        keys = [key.decode() for key in self._rules.keys(event)]
        detail = "" if event.type in self._rules.known else NO_RULE
        encoded = encoded_columns(event.type, event.fields, keys)
        return Seen(now, "event", event.type, keys, [id] if id else [], detail, encoded=encoded)

    def _announced(self, now: datetime, delivery: Delivery) -> Seen | None:
        announced = read_announcement(delivery.body)
        if announced.is_heartbeat:
            return None
        parked = f"parked for {', '.join(announced.parked)}" if announced.parked else ""
        detail = EVERYTHING if announced.everything else parked
        return Seen(now, "purged", announced.cluster, announced.keys, announced.events, detail)


async def sample(settings: Settings, count: int, *, within: float, advance: Callable[[], None]) -> list[Finding]:
    """Try the rules on the next ``count`` events, or on those of the next ``within`` seconds. Raises as `passing`."""
    interpreter, taken = Interpreter(settings), list[Seen]()
    try:
        async with asyncio.timeout(within), aclosing(passing(settings)) as deliveries:
            async for delivery in deliveries:
                if seen := interpreter.interpret(delivery):
                    taken.append(seen)
                    advance()
                if len(taken) == count:
                    break
    except TimeoutError:
        pass
    if not taken:
        fix = "wait longer (--within), or publish one: invalidator publish"
        return [wrong("sample", f"no event came within {within:g} s", fix, meaning=UnconfirmedError)]
    return list(sample_findings(taken, known=[rule.on for rule in settings.rule]))


def sample_findings(taken: Iterable[Seen], *, known: Collection[str]) -> Iterator[Finding]:
    """Yield a finding for each type of event, and one for each reason why events would be dead letters. Pure."""
    events, keys = Counter[str](), Counter[str]()
    poison: dict[tuple[str, str], list[str]] = {}
    encoded: dict[tuple[str, str], str] = {}
    for seen in taken:
        events[seen.of] += 1
        keys[seen.of] += len(seen.keys)
        if seen.reason:
            poison.setdefault((seen.of, seen.reason), []).append(seen.detail)
        encoded |= {(seen.of, column): seen.keys[0] for column in seen.encoded}
    for (kind, reason), details in poison.items():
        text = f"{kind or 'without a type'}: {len(details)} of {events[kind]} would be dead letters ({reason})"
        yield wrong("sample", text, f"correct the rule or the publisher: {details[0]}", meaning=ConfigurationError)
        events[kind] -= len(details)
    for (kind, column), key in encoded.items():
        text = (
            f'{kind}: the column "{column}" could be a number in Kafka Connect\'s encoding, as in the key {quoted(key)}'
        )
        yield Finding("note", "sample", text, DEBEZIUM_NUMBERS)
    for kind, good in events.most_common():
        if good and kind in NO_RULE_NEEDED:
            yield ok("sample", f"{kind}: events {good}, which need no rule")
        elif good and not keys[kind]:
            nearest = get_close_matches(kind, known, n=1)
            fix = f'did a rule mean "{nearest[0]}"?' if nearest else "write a [[rule]] if they matter to the cache"
            yield Finding("note", "sample", f"{kind}: events {good}, which evict nothing", fix)
        elif good:
            yield ok("sample", f"{kind}: events {good}, keys {keys[kind]}")
