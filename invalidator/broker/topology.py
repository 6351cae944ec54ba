"""The exchanges, queues and bindings in the broker: their names and arguments.

    product.updates (fanout) ──> invalidator.<cluster> ──(rejected, or over its limit)──> invalidator.<cluster>.dead
                                 invalidator.<cluster>.parked.<label>   one a node: its debts
                          ├────> invalidator.log                        a stream: a second copy of every event
    invalidator.log (fanout) ┘                                          statements of publishers: what is confirmed
                                 invalidator.<cluster>.tally            how far the log was compared with these
                                 invalidator.<cluster>.gaps             times in which events may have been missed
                                 invalidator.<cluster>.position         the times of the oldest unsettled events
                 (a while later) invalidator.<cluster> <── invalidator.<cluster>.again.<milliseconds>ms
    cache.purged (direct, routing key: the cluster)                     evicted keys, for near caches and warmers
                          └────> invalidator.<cluster>.evictions        a stream: the same, for the history of a key

Rules of this file:

1. Arguments hold what losslessness needs, because AMQP cannot set policies and a default would lose: a quorum queue
   with a delivery limit and no dead-letter exchange *deletes*, and RabbitMQ 4 gives every quorum queue a limit of 20.
2. Limits and lengths are policy, so that operators stay in charge (`definitions`).
3. Queues that are not consumed in order (dead letters, debts, gaps, second evictions) have no delivery limit: before
   RabbitMQ 4.3 reading a message counts as a delivery, even if it goes back.
4. The log, its exchange, evictions, positions and tally exist only with ``event_log.enabled``. The log is a second copy
   and never the only one, so a log of another size or age is left as it is.
5. Each delay of second evictions has a queue of its own: messages expire only at the head of a queue, so one with a
   long delay would hold up those behind it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from invalidator.errors import ConfigurationError
from invalidator.settings import Settings

#: Keeps inspections and crashes from deleting a dead letter or a debt; RabbitMQ 3 has no limit and refuses this value.
NO_DELIVERY_LIMIT = {"x-delivery-limit": -1}
#: Gaps are few. If there are more, the newest ones matter, and none of them may hold up a worker.
GAPS = {"x-queue-type": "quorum", "x-max-length": 100, "x-overflow": "drop-head"}
#: Each worker stores one every few seconds, and only the newest matter.
POSITIONS = GAPS
#: Of all workers one is given what is in it, and it alone reads the log, until its connection is lost.
TALLY = GAPS | {"x-single-active-consumer": True}
#: Bytes of the log's segments, at most: the broker drops whole ones, and looks when one is full.
SEGMENT_BYTES = 10_000_000
#: Segments of a log that keeps few bytes, so that it never holds a tenth more than it should.
SEGMENTS = 20
#: The first major version with a default limit that must be switched off.
NEEDS_NO_LIMIT = 4
#: Milliseconds until a change that new reads do not see yet comes again.
POSTPONED_MS = 500


@dataclass(frozen=True)
class Queue:
    """A durable queue and the arguments with which it must have been declared."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    #: True if reading its messages and giving them back must never lose one.
    keeps: bool = False
    #: True for the log: the differences of one that exists are only reported.
    is_log: bool = False


@dataclass(frozen=True)
class Topology:
    """One cluster's names, as its settings give them."""

    cluster: str
    exchange: str
    purged: str
    prefix: str
    queue: str
    labels: tuple[str, ...]
    #: The delays in milliseconds after which rules have their keys evicted a second time, and events come again.
    delays_ms: tuple[int, ...] = ()
    #: Days and bytes that the log of events keeps; None without a log.
    logged: tuple[int, int] | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Topology":
        broker, log = settings.broker, settings.event_log
        topology = cls(
            cluster=settings.cluster,
            exchange=broker.exchange,
            purged=broker.purged_exchange,
            prefix=broker.prefix,
            queue=broker.queue or f"{broker.prefix}.{settings.cluster}",
            labels=tuple(settings.nodes()),
            delays_ms=tuple(sorted(_delays_ms(settings))),
            logged=(log.days, log.max_bytes) if log.enabled else None,
        )
        if topology.logged and topology.queue == topology.log:
            raise ConfigurationError(f'"{topology.log}" is the log of events: choose another name for the cluster')
        return topology

    @property
    def dead(self) -> str:
        return f"{self.queue}.dead"

    @property
    def gaps(self) -> str:
        return f"{self.queue}.gaps"

    @property
    def log(self) -> str:
        """The stream that keeps a second copy of every event, of all clusters with this prefix."""
        return f"{self.prefix}.log"

    @property
    def position(self) -> str:
        return f"{self.queue}.position"

    @property
    def evictions(self) -> str:
        """The stream that keeps what the cluster's workers announce."""
        return f"{self.queue}.evictions"

    @property
    def tally(self) -> str:
        return f"{self.queue}.tally"

    def parked(self, label: str) -> str:
        return f"{self.queue}.parked.{label}"

    def again(self, delay_ms: int) -> str:
        return f"{self.queue}.again.{delay_ms}ms"

    def exchanges(self) -> dict[str, str]:
        """Return the type of each exchange by its name."""
        exchanges = {self.exchange: "fanout", self.purged: "direct"}
        return exchanges | {self.log: "fanout"} if self.logged else exchanges

    def bindings(self) -> list[tuple[str, str, str]]:
        """Return each exchange and queue to bind, with the routing key; the log, too, gets a copy of every event."""
        bindings = [(self.exchange, self.queue, "")]
        if self.logged:
            bindings += [(self.exchange, self.log, ""), (self.log, self.log, "")]
            bindings += [(self.purged, self.evictions, self.cluster)]
        return bindings

    def queues(self) -> Iterator[Queue]:
        """Yield every queue with its arguments."""
        yield Queue(
            self.queue,
            {
                "x-queue-type": "quorum",
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": self.dead,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )
        # A length limit, set by some policy for all queues, must refuse new messages here instead of dropping old ones.
        keeps = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}
        for name in (self.dead, *map(self.parked, self.labels)):
            yield Queue(name, keeps, keeps=True)
        yield Queue(self.gaps, GAPS, keeps=True)
        for delay_ms in self.delays_ms:
            yield Queue(
                self.again(delay_ms),
                {
                    "x-queue-type": "quorum",
                    "x-message-ttl": delay_ms,
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": self.queue,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                },
                keeps=True,
            )

        if self.logged:
            yield Queue(self.log, _log_arguments(*self.logged), is_log=True)
            yield Queue(self.evictions, _log_arguments(*self.logged), is_log=True)
            yield Queue(self.position, POSITIONS, keeps=True)
            yield Queue(self.tally, TALLY, keeps=True)

    def definitions(self, vhost: str, *, major_version: int) -> dict[str, Any]:
        """Return the argument of `rabbitmqctl import_definitions`, for RabbitMQ 3 or 4; it has no users."""
        everywhere = {"vhost": vhost, "durable": True, "auto_delete": False}
        return {
            "vhosts": [{"name": vhost}],
            "exchanges": [
                {**everywhere, "name": name, "type": kind, "internal": False, "arguments": {}}
                for name, kind in self.exchanges().items()
            ],
            "queues": [
                {**everywhere, "name": queue.name, "arguments": arguments_for(queue, major_version)}
                for queue in self.queues()
            ],
            "bindings": [
                {
                    "vhost": vhost,
                    "source": exchange,
                    "destination": queue,
                    "destination_type": "queue",
                    "routing_key": routing_key,
                    "arguments": {},
                }
                for exchange, queue, routing_key in self.bindings()
            ],
            "policies": [self.keeping_policy(vhost)] if major_version >= NEEDS_NO_LIMIT else [],
        }

    def keeping_policy(self, vhost: str) -> dict[str, Any]:
        """Return the policy that switches the delivery limit off for queues declared under RabbitMQ 3."""
        kept = "dead|gaps|position|tally" if self.logged else "dead|gaps"
        return {
            "vhost": vhost,
            "name": f"{self.queue}: keep dead letters and debts",
            "pattern": rf"^{re.escape(self.queue)}\.({kept}|again\..+|parked\..+)$",
            "apply-to": "queues",
            "priority": 100,
            "definition": {"delivery-limit": -1},
        }


def _log_arguments(days: int, max_bytes: int) -> dict[str, Any]:
    return {
        "x-queue-type": "stream",
        "x-max-age": f"{days}D",
        "x-max-length-bytes": max_bytes,
        "x-stream-max-segment-size-bytes": min(SEGMENT_BYTES, max_bytes // SEGMENTS),
    }


def _delays_ms(settings: Settings) -> set[int]:
    delays = {delay_ms for rule in settings.rule if (delay_ms := settings.again_ms(rule))}
    return delays | {POSTPONED_MS} if settings.debezium.url else delays


def arguments_for(queue: Queue, major: int) -> dict[str, Any]:
    """Return the arguments of a queue on RabbitMQ 3 or 4."""
    return queue.arguments | (NO_DELIVERY_LIMIT if queue.keeps and major >= NEEDS_NO_LIMIT else {})
