"""All settings with their types and defaults. Everything that an operator can configure is listed here once.

A ``#:`` comment gives a setting's meaning and unit. conf/invalidator.toml explains it at length.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from invalidator.settings.address import Address, labelled, split_address

# \Z, because $ would let a final newline through.
WORD = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}\Z"
LABEL = r"^[A-Za-z0-9:/][A-Za-z0-9_.:/-]{0,79}\Z"
PRINTABLE = r"^[\x21-\x7e]*\Z"
#: Part of a memcached key.
KEY_TEXT = r"^[^\x00-\x20\x7f-\x9f]*\Z"
MANAGEMENT_URL = r"^https?://[^\s/?#@]+(?:/[^\s?#@]*)?\Z"

#: Ports of the services' HTTP servers, so that one of each can run on one machine.
WORKER_PORT, WARMER_PORT, RELAY_PORT, FOLLOWER_PORT, AUDIT_PORT = 9871, 9872, 9873, 9874, 9875

Count = Annotated[int, Meta(ge=1)]
#: Up to an hour. A larger number is probably meant in another unit.
Seconds = Annotated[float, Meta(gt=0, le=3600)]
#: A name that becomes part of queue names and routing keys.
Word = Annotated[str, Meta(pattern=WORD)]
#: The same for a node, whose label may be its address: "::1:11211", "/run/memcached.sock".
Label = Annotated[str, Meta(pattern=LABEL)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: What PostgreSQL allows as the name of a replication slot.
SlotName = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,63}\Z")]
#: pymemcache's HashClient, and libmemcached's consistent hashing as selected by pylibmc's behaviours.
RingKind = Literal["rendezvous", "ketama", "ketama-md5", "ketama-weighted"]


class Secret:
    """A password that prints as asterisks. Only the code that sends it calls `reveal()`."""

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "********"


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class BrokerSettings(_Section, frozen=True, kw_only=True):
    """``[broker]``: the connection to RabbitMQ, and the names of our exchanges and queues."""

    #: amqp:// or amqps://, with user, first address and vhost.
    url: str = "amqp://guest:guest@127.0.0.1:5672/"
    #: Further broker nodes, "host:port", tried in turn after the one in `url`.
    alternates: list[str] = []
    #: Replaces the vhost in `url`.
    vhost: str | None = None
    password: Secret | None = None
    password_file: str | None = None
    #: For amqps://, PEM files. The CA certificates to trust instead of the system's.
    tls_ca: str | None = None
    #: Client certificate chain, for brokers that require one; and its key, if in a separate file.
    tls_certificate: str | None = None
    tls_key: str | None = None
    #: The name that the broker's certificate must be for, instead of the host in its address.
    tls_server_name: Name | None = None
    #: The fanout exchange that product updates are published to.
    exchange: Name = "product.updates"
    #: The direct exchange that evictions are announced on.
    purged_exchange: Name = "cache.purged"
    #: First part of every queue's name.
    prefix: Word = "invalidator"
    #: Receipts may also be sent to queues whose names begin with this. Direct reply-to is always allowed.
    reply_prefix: Name | None = None
    #: The cluster's queue; by default "<prefix>.<cluster>".
    queue: Name | None = None
    #: "active": the worker declares missing exchanges and queues. "passive": it waits until somebody else has.
    declare: Literal["active", "passive"] = "active"
    #: "tap": read deliveries straight off the transport. "aio-pika": through the library, at ten times the cost.
    consumer: Literal["tap", "aio-pika"] = "tap"
    #: Unacknowledged deliveries the broker hands to one worker.
    prefetch: Annotated[int, Meta(ge=1, le=65535)] = 2000
    #: Seconds between AMQP heartbeats.
    heartbeat: Annotated[int, Meta(ge=1, le=600)] = 10
    #: Seconds for a connection to be made and for a declaration to be answered.
    connect_timeout: Seconds = 5.0
    #: Seconds for the broker to confirm a publish.
    publish_timeout: Seconds = 5.0

    @property
    def log(self) -> str:
        """The name of the log's stream, and of the exchange on which publishers state what is confirmed."""
        return f"{self.prefix}.log"


class ManagementSettings(_Section, frozen=True, kw_only=True):
    """``[management]``: RabbitMQ's HTTP API, which some commands query. Workers do not need it."""

    #: http or https, without a user; by default port 15672 of the host in broker.url.
    url: Annotated[str, Meta(pattern=MANAGEMENT_URL)] | None = None
    #: By default the broker's user and password. It needs the tag "management".
    user: Name | None = None
    password: Secret | None = None
    password_file: str | None = None
    #: Every cluster that should exist. Replaces the list of bound queues that the API gives.
    expect: list[Word] = []
    #: For https: the CA certificates to trust; by default those of `broker.tls_ca`.
    tls_ca: str | None = None


class PreviousRing(_Section, frozen=True, kw_only=True):
    """``[ring.previous]``: the ring that clients are moving away from; keys are evicted on its owners too."""

    kind: RingKind = "rendezvous"
    #: As in `[ring]`.
    nodes: dict[Label, str] | list[str] = []


class RingSettings(_Section, frozen=True, kw_only=True):
    """``[ring]``: the memcached nodes of this cluster, and the way clients distribute keys over them."""

    kind: RingKind = "rendezvous"
    #: Label -> "host:port" or "/path/of/socket". In a plain list, each node is labelled with its address.
    nodes: dict[Label, str] | list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1:11211"])
    previous: PreviousRing | None = None


class MemcachedSettings(_Section, frozen=True, kw_only=True):
    """``[memcached]``: evicting keys from the nodes."""

    #: "every-node": correct for any client. "owner": only on the key's own node, if every client uses this ring.
    evict_on: Literal["every-node", "owner"] = "every-node"
    #: Text that the applications' client puts before every key (pymemcache's key_prefix).
    prefix: Annotated[str, Meta(max_length=200, pattern=KEY_TEXT)] = ""
    #: True for nodes that speak TLS (memcached -Z). The files and the name are as in `[broker]`.
    tls: bool = False
    tls_ca: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_server_name: Name | None = None
    #: For nodes that require a login (memcached -Y).
    user: Annotated[str, Meta(min_length=1, max_length=200, pattern=PRINTABLE)] | None = None
    password: Secret | None = None
    password_file: str | None = None
    #: Seconds without a confirmation after which a node counts as hung.
    deadline: Seconds = 1.0
    #: Keys that share one fence.
    chunk_keys: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    #: Fences outstanding on one node at a time.
    chunks_in_flight: Annotated[int, Meta(ge=1, le=64)] = 4


class WorkerSettings(_Section, frozen=True, kw_only=True):
    """``[worker]``: batch sizes, buffers and deadlines."""

    #: Maximum events in one batch.
    batch_events: Count = 1000
    #: Batches being evicted while the next one gathers.
    batches_in_flight: Annotated[int, Meta(ge=1, le=16)] = 2
    #: Seconds to finish the batches in flight after SIGTERM.
    stop_within: Seconds = 5.0
    #: Keys parked for one node. Above this the debt is replaced by "flush this node before use".
    parked_limit: Count = 1_000_000
    #: Bytes of events held in memory. Above this, reading from the broker pauses.
    buffer_bytes: Count = 67_108_864


class LimitSettings(_Section, frozen=True, kw_only=True):
    """``[limits]``: an event above one of these is a dead letter."""

    #: Bytes of one event's body.
    body_bytes: Count = 262_144
    #: Keys that one event evicts.
    event_keys: Count = 10_000


class EventSettings(_Section, frozen=True, kw_only=True):
    """``[events]``: the place of an event's type, for frameworks that put it somewhere else."""

    #: Header that holds the type. It counts more than the AMQP property and the field "type".
    type_header: Name | None = None
    #: Field of the body, or path to it, that holds the type: "messageType", "meta.type".
    type_field: Name | None = None


class OutboxSettings(_Section, frozen=True, kw_only=True):
    """``[outbox]``: the table from which `invalidator relay` publishes. Workers do not need it."""

    #: SQLAlchemy's URL of the application's database: postgresql, mariadb, mysql or sqlite. It may hold a password.
    url: Secret | None = None
    #: Name of the table.
    table: Name = "invalidator_outbox"
    #: Maximum events read at a time.
    batch_events: Count = 500
    #: Seconds between two polls of the table, for databases that cannot wake the relay.
    poll_interval: Seconds = 1.0


class FollowSettings(_Section, frozen=True, kw_only=True):
    """``[follow]``: the PostgreSQL primary whose log follower and auditor read; no worker needs it."""

    #: postgresql://user@host/database. It may hold a password.
    url: Secret | None = None
    #: The replication slot, which keeps the follower's place in the log.
    slot: SlotName = "invalidator"
    #: The publication, which names the tables whose changes are sent.
    publication: Name = "invalidator"
    #: The prefix of those messages of pg_logical_emit_message that are events.
    prefix: Name = "invalidator"


class DebeziumSettings(_Section, frozen=True, kw_only=True):
    """``[debezium]``: change events that may come before a new read sees their change."""

    #: The PostgreSQL primary that Debezium reads, postgresql://user@host/database: workers ask it what can be seen.
    url: Secret | None = None
    #: Seconds until a second eviction for those rules on Debezium's events that set no `again_after`, while there is no
    #: `url`; 0 for none.
    again_after: Annotated[float, Meta(ge=0, le=3600)] = 5.0


class WarmerSettings(_Section, frozen=True, kw_only=True):
    """``[warmer]``: reloading evicted keys with `invalidator warm`. Workers do not need it."""

    #: "package.module:function": see `invalidator.warmer`.
    loader: Name | None = None
    #: Maximum keys reloaded per second.
    rate: Annotated[float, Meta(gt=0, le=100_000)] = 50.0
    #: Maximum keys being reloaded at a time.
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 4
    #: Maximum hot keys waiting to be reloaded. Beyond it, those that have waited longest are dropped.
    waiting: Count = 1000


class EventLogSettings(_Section, frozen=True, kw_only=True):
    """``[event_log]``: a stream that keeps a second copy of every event, from which a lost queue is healed."""

    #: True: the log is declared with the topology, and gaps are healed from it.
    enabled: bool = False
    #: Days that an event is kept.
    days: Annotated[int, Meta(ge=1, le=3650)] = 7
    #: Bytes on the broker's disk, of the log and of each cluster's evictions. Above this the oldest ones are dropped.
    max_bytes: Annotated[int, Meta(ge=1_000_000)] = 5_000_000_000
    #: Maximum events a second that a worker reads from the log, so that new ones are not held up.
    rate: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000


class AuditSettings(_Section, frozen=True, kw_only=True):
    """``[audit]``: comparing the caches with their source, by `invalidator audit`; no worker needs it."""

    #: "package.module:function": see `invalidator.audit.truth`.
    source: Name | None = None
    #: The share of all keys whose changes are checked.
    share: Annotated[float, Meta(gt=0, le=1)] = 0.01
    #: Keys that are always checked, also without an event.
    keys: list[Name] = []
    #: Seconds after a change at which its keys are checked, in rising order.
    delays: Annotated[list[Seconds], Meta(min_length=1, max_length=8)] = msgspec.field(
        default_factory=lambda: [0.1, 1.0, 10.0, 60.0]
    )
    #: Maximum reads of the source per second.
    reads: Annotated[float, Meta(gt=0, le=100_000)] = 5.0
    #: Maximum commands sent to the nodes per second.
    commands: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    #: False: a permanently stale value is reported, and not removed.
    repair: bool = True
    #: The file of the counts; by default /var/lib/invalidator-audit-<cluster>/account.sqlite.
    account: Annotated[str, Meta(min_length=1)] | None = None


class LogSettings(_Section, frozen=True, kw_only=True):
    """``[log]``: log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: "auto": "console" on a terminal, "json" elsewhere.
    format: Literal["auto", "console", "json"] = "auto"


class MetricsSettings(_Section, frozen=True, kw_only=True):
    """``[metrics]``: Prometheus metrics and health over HTTP."""

    #: "host:port", a port on loopback, a host, or "off". By default loopback and the service's own port.
    listen: str | int = "127.0.0.1"

    def address(self, default_port: int = WORKER_PORT) -> Address | None:
        """Return host and port, or None for "off". Raises the same errors as `split_address`."""
        if self.listen == "off":
            return None
        is_port = isinstance(self.listen, int) or self.listen.isdecimal()
        return split_address(f"127.0.0.1:{self.listen}" if is_port else str(self.listen), default_port=default_port)


class RuleSettings(_Section, frozen=True, kw_only=True):
    """One ``[[rule]]``: the keys that an event of one type evicts."""

    #: The event's type.
    on: Annotated[str, Meta(min_length=1)]
    #: Key templates: see `invalidator.events.templates`.
    evict: Annotated[list[str], Meta(min_length=1)]
    #: Seconds until the same keys are evicted a second time.
    again_after: Annotated[float, Meta(ge=0.001, le=3600)] | None = None

    @property
    def is_for_debezium(self) -> bool:
        return self.on.startswith("debezium:")


class Settings(_Section, frozen=True, kw_only=True):
    """All settings, checked, as `load` returns them."""

    #: Name of the cluster: the memcached nodes that one fleet of applications shares.
    cluster: Word = "main"
    broker: BrokerSettings = BrokerSettings()
    management: ManagementSettings = ManagementSettings()
    ring: RingSettings = RingSettings()
    memcached: MemcachedSettings = MemcachedSettings()
    worker: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    events: EventSettings = EventSettings()
    outbox: OutboxSettings = OutboxSettings()
    follow: FollowSettings = FollowSettings()
    debezium: DebeziumSettings = DebeziumSettings()
    warmer: WarmerSettings = WarmerSettings()
    event_log: EventLogSettings = EventLogSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    rule: list[RuleSettings] = []

    def nodes(self) -> dict[str, Address]:
        """Return every node that may hold a key, of the ring and of the previous one: label -> address."""
        known = labelled(self.ring.nodes)
        if self.ring.previous:
            known = labelled(self.ring.previous.nodes) | known
        return known

    def again_ms(self, rule: RuleSettings) -> int | None:
        """Return the milliseconds until a rule's second eviction, None if it has none."""
        if rule.again_after is None and rule.is_for_debezium and self.debezium.url is None:
            return round(self.debezium.again_after * 1000) or None
        return None if rule.again_after is None else round(rule.again_after * 1000)
